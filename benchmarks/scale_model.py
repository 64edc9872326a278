"""A job at any scale, by simulation: waves of tasks on GPUs that are lost now and then, and what is written beside them.

Plain arithmetic and a seeded simulation, without Spark. The number of tasks of a wave is the job's own rule.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metaeol_udf.delta.write.waves import task_count


@dataclass(frozen=True)
class Costs:
    """What Spark and Delta cost on the measured machine, beside the model. All of it is measured.

    Attributes:
        slots: Cores of that machine.
        dim: Numbers of a measured vector.
        fixed_s: Seconds of each phase that do not depend on the table: `select`, `embed`, `publish`, `publish in place`, `verify`.
        row_s: Seconds of each phase for a row more, without its text.
        byte_s: Seconds of each phase for a byte of text more.
        wave_s: Seconds of a wave more.
        journal_row_bytes: On disk.
        log_file_bytes: Of a data file's entry in the log.
    """

    slots: int
    dim: int
    fixed_s: Mapping[str, float]
    row_s: Mapping[str, float]
    byte_s: Mapping[str, float]
    wave_s: float
    journal_row_bytes: float
    log_file_bytes: float


@dataclass(frozen=True)
class Cluster:
    """What the job runs on. All of it is assumed.

    Attributes:
        gpus: One executor each.
        tokens_per_second: Of one GPU.
        cores: Of one executor, for Spark's own work, each as fast as a core of the measured machine.
        load_s: Of the model in a new worker.
        losses_per_hour: Times that one executor is lost in an hour.
        replace_s: Until a lost executor is back.
        task_s: What Spark needs to start a task.
    """

    gpus: int
    tokens_per_second: float
    cores: int = 16
    load_s: float = 60.0
    losses_per_hour: float = 0.002
    replace_s: float = 300.0
    task_s: float = 0.05


@dataclass(frozen=True)
class Table:
    """What is embedded.

    Attributes:
        rows: Unique texts.
        tokens: Computed for a text on average.
        spread: Standard deviation of a text's tokens over their mean.
        text_bytes: Of a text on average.
        dim: Numbers in a vector.
    """

    rows: int
    tokens: float
    spread: float
    text_bytes: float
    dim: int


@dataclass(frozen=True)
class Plan:
    """What a first run over a table takes.

    Attributes:
        waves: Of the run.
        tasks: Of a wave.
        wave_s: Seconds of a wave, from its first task to the end of its commit.
        embed_hours: Of all waves.
        busy_share: Share of the GPUs' time in which they compute.
        gpu_hours_of_a_kill: GPU hours of a wave: the most that a kill costs.
        journal_bytes: Of all waves.
        hours: Of the phases beside the embedding, by name.
    """

    waves: int
    tasks: int
    wave_s: float
    embed_hours: float
    busy_share: float
    gpu_hours_of_a_kill: float
    journal_bytes: float
    hours: Mapping[str, float]

    @property
    def journal_files(self) -> int:
        """Files of the journal: one a task."""
        return self.waves * self.tasks


def simulate_wave(n_texts: int, table: Table, cluster: Cluster, rng: np.random.Generator) -> float:
    """Seconds from a wave's first task to its last, the commit left out.

    Tasks go to the next free GPU, as Spark's scheduler hands them out. A GPU that is lost in the middle of a task takes the
    task with it, which begins again elsewhere. The GPU comes back with a model to load.
    """
    n_tasks = task_count(n_texts, cluster.gpus)
    per_task = n_texts / n_tasks
    mean_s = per_task * table.tokens / cluster.tokens_per_second
    waiting = list(mean_s * np.maximum(0.05, rng.normal(1.0, table.spread / math.sqrt(per_task), n_tasks)) + cluster.task_s)
    free = [0.0] * cluster.gpus
    end = 0.0
    while waiting:
        duration = float(waiting.pop())
        start = heapq.heappop(free)
        lost_after = rng.exponential(3600.0 / cluster.losses_per_hour) if cluster.losses_per_hour else math.inf
        if lost_after < duration:
            waiting.append(duration)
            heapq.heappush(free, start + lost_after + cluster.replace_s + cluster.load_s)
        else:
            heapq.heappush(free, start + duration)
            end = max(end, start + duration)
    return end


def plan(table: Table, cluster: Cluster, wave_rows: int, costs: Costs, samples: int = 5, seed: int = 0) -> Plan:
    """Plan a first run over a table; `samples` waves are simulated, and the others are taken to be like them."""
    rng = np.random.default_rng(seed)
    waves = math.ceil(table.rows / wave_rows)
    per_wave = table.rows / waves
    simulated = [simulate_wave(round(per_wave), table, cluster, rng) for _ in range(min(samples, waves))]
    vectors = table.dim / costs.dim  # what a row costs is taken to grow with its vector, but for the selection, which reads none
    speed = cluster.gpus * cluster.cores / costs.slots

    def seconds(phase: str, rows: float, fixed_s: float) -> float:
        row_s = costs.row_s[phase] * (1.0 if phase == "select" else vectors) + costs.byte_s[phase] * table.text_bytes
        return fixed_s + rows * row_s / speed

    wave_s = float(np.mean(simulated)) + seconds("embed", per_wave, costs.wave_s)
    tasks = task_count(round(per_wave), cluster.gpus)
    return Plan(
        waves=waves,
        tasks=tasks,
        wave_s=wave_s,
        embed_hours=(waves * wave_s + cluster.load_s) / 3600,
        busy_share=per_wave * table.tokens / cluster.tokens_per_second / cluster.gpus / wave_s,
        gpu_hours_of_a_kill=wave_s * cluster.gpus / 3600,
        journal_bytes=table.rows * costs.journal_row_bytes * vectors,
        hours={phase: seconds(phase, table.rows, costs.fixed_s[phase]) / 3600 for phase in costs.fixed_s if phase != "embed"},
    )


def best_wave_rows(table: Table, cluster: Cluster, costs: Costs, wanted_share: float = 0.95) -> int:
    """Find the smallest `wave_rows`, of 50,000 times powers of two, whose waves keep the GPUs busy for the wanted share of the time."""
    wave_rows = 50_000
    while wave_rows < table.rows and plan(table, cluster, wave_rows, costs, samples=2).busy_share < wanted_share:
        wave_rows *= 2
    return min(wave_rows, max(50_000, table.rows))
