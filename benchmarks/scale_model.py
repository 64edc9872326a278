"""A job at any scale, by simulation: waves of tasks on GPUs that are lost now and then, and what is written beside them.

Plain arithmetic and a seeded simulation, without Spark. The number of tasks of a wave is the job's own rule.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaeol_udf.delta.write.waves import task_count


@dataclass(frozen=True)
class Cluster:
    """What the job runs on. All of it is assumed, but for the rates of the measured machine.

    Attributes:
        gpus: One executor each.
        tokens_per_second: Of one GPU.
        cores: Of one executor, for Spark's own work.
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
        dim: Numbers in a vector.
    """

    rows: int
    tokens: float
    spread: float
    dim: int


def simulate_wave(n_texts: int, table: Table, cluster: Cluster, rng: np.random.Generator) -> float:
    """Seconds from a wave's first task to its last, the commit left out.

    Tasks go to the next free GPU, as Spark's scheduler hands them out. A GPU that is lost in the middle of a task takes the
    task with it, which begins again elsewhere, and comes back with a model to load.
    """
    n_tasks = task_count(n_texts, cluster.gpus)
    per_task = n_texts / n_tasks
    mean_s = per_task * table.tokens / cluster.tokens_per_second
    durations = mean_s * np.maximum(0.05, rng.normal(1.0, table.spread / math.sqrt(per_task), n_tasks)) + cluster.task_s
    free = [0.0] * cluster.gpus
    heapq.heapify(free)
    waiting = list(durations)
    end = 0.0
    while waiting:
        duration = float(waiting.pop())
        start = heapq.heappop(free)
        lost_after = rng.exponential(3600.0 / cluster.losses_per_hour) if cluster.losses_per_hour else math.inf
        if lost_after < duration:
            waiting.append(duration)
            heapq.heappush(free, start + lost_after + cluster.replace_s + cluster.load_s)
            continue
        heapq.heappush(free, start + duration)
        end = max(end, start + duration)
    return end


def plan(table: Table, cluster: Cluster, wave_rows: int, costs: dict[str, Any], samples: int = 5, seed: int = 0) -> dict[str, Any]:
    """One run over a whole table.

    Args:
        table: What is embedded.
        cluster: Where.
        wave_rows: The setting `runtime.wave_rows`.
        costs: What `benchmarks.scale_costs.measure` gave.
        samples: Waves that are simulated; the others are taken to be like them.
        seed: Of the simulation.

    Returns:
        Hours, bytes and counts by name.
    """
    rng = np.random.default_rng(seed)
    n_waves = math.ceil(table.rows / wave_rows)
    per_wave = table.rows / n_waves
    simulated = [simulate_wave(round(per_wave), table, cluster, rng) for _ in range(min(samples, n_waves))]
    ideal_s = per_wave * table.tokens / cluster.tokens_per_second / cluster.gpus
    vectors = table.dim / costs["dim"]  # measured bytes and seconds a row are those of the measured dimension
    speed = cluster.gpus * cluster.cores / costs["slots"]
    phases = costs["phases"]
    append_s = phases["append"]["fixed_s"] + per_wave * phases["append"]["row_s"] * vectors / speed
    wave_s = float(np.mean(simulated)) + append_s
    tasks = task_count(round(per_wave), cluster.gpus)
    journal_bytes = table.rows * costs["sizes"]["journal_row_bytes"] * vectors
    hours = {
        phase: (phases[phase]["fixed_s"] + table.rows * phases[phase]["row_s"] * (vectors if phase != "select" else 1.0) / speed) / 3600
        for phase in ("select", "merge_target", "merge_in_place", "verify")
    }
    return {
        "waves": n_waves,
        "tasks": tasks,
        "wave_s": wave_s,
        "append_s": append_s,
        "embed_hours": n_waves * wave_s / 3600 + cluster.load_s / 3600,
        "used_share": ideal_s / wave_s,
        "gpu_hours_lost_by_a_kill": wave_s * cluster.gpus / 3600,
        "journal_bytes": journal_bytes,
        "journal_files": n_waves * tasks,
        "file_bytes": journal_bytes / (n_waves * tasks),
        "log_bytes": n_waves * tasks * costs["sizes"]["log_file_bytes"],
        **{f"{phase}_hours": value for phase, value in hours.items()},
    }


def best_wave_rows(table: Table, cluster: Cluster, costs: dict[str, Any], wanted_share: float = 0.95) -> int:
    """The smallest `wave_rows`, of 50,000 times powers of two, whose waves keep the GPUs busy for the wanted share of the time."""
    wave_rows = 50_000
    while wave_rows < table.rows and plan(table, cluster, wave_rows, costs, samples=2)["used_share"] < wanted_share:
        wave_rows *= 2
    return min(wave_rows, max(50_000, table.rows))
