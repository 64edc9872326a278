"""The simulation of large jobs and the costs that it takes, held against arithmetic that can be done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from benchmarks.scale import Trial, derive, measure, report, size, trials
from benchmarks.scale_model import Cluster, Costs, Table, best_wave_rows, plan, simulate_wave
from metaeol_udf.delta.write.waves import task_count

PHASES = ("select", "embed", "publish", "verify")
COSTS = Costs(
    slots=2,
    dim=100,
    fixed_s=dict.fromkeys((*PHASES, "publish in place"), 1.0),
    row_s=dict.fromkeys((*PHASES, "publish in place"), 1e-5),
    byte_s=dict.fromkeys((*PHASES, "publish in place"), 0.0),
    wave_s=0.5,
    journal_row_bytes=500.0,
    log_file_bytes=600.0,
)
STEADY = Table(rows=1_000_000, tokens=100.0, spread=0.0, text_bytes=100.0, dim=100)


def measured(trial: Trial) -> dict[str, Any]:
    """What a machine would measure that needs 1 s for each phase, 1 ms a row, 1 µs a byte of text, and half a second a wave more."""
    seconds = 1 + trial.rows * 1e-3 + trial.rows * trial.characters * 1e-6
    phases = {f"{phase}_s": seconds for phase in PHASES} | {"embed_s": seconds + 0.5 * trial.waves}
    phases["publish_s"] *= 2 if trial.in_place else 1
    sizes = {"journal_row_bytes": 500, "log_file_bytes": 600, "night_written": 10**6, "slots": 2, "dim": 100}
    return {**vars(trial), **phases, **sizes, "first_run_s": 4 * seconds, "night_s": 5.0}


def test_costs_are_taken_apart() -> None:
    costs = derive([measured(trial) for trial in trials(1_000)])
    assert costs.wave_s == pytest.approx(0.5)
    assert costs.byte_s == pytest.approx(dict.fromkeys(costs.byte_s, 1e-6))
    assert costs.row_s["select"] == pytest.approx(1e-3 + 60 * 1e-6)  # with the text of the small tables
    assert costs.fixed_s["select"] == pytest.approx(1.0)
    assert costs.fixed_s["publish in place"] == pytest.approx(2 * costs.fixed_s["publish"])


def test_equal_tasks_on_gpus_that_are_never_lost_take_as_long_as_by_hand() -> None:
    cluster = Cluster(gpus=4, tokens_per_second=1000.0, losses_per_hour=0.0, task_s=0.0)
    tasks = task_count(10_000, 4)
    assert tasks == 12
    assert simulate_wave(10_000, STEADY, cluster, np.random.default_rng(0)) == pytest.approx(3 * 10_000 / tasks * 100 / 1000.0)


def test_lost_executors_make_a_wave_longer() -> None:
    steady = Cluster(gpus=8, tokens_per_second=1000.0, losses_per_hour=0.0)
    lossy = Cluster(gpus=8, tokens_per_second=1000.0, losses_per_hour=5.0)
    rng = np.random.default_rng
    assert simulate_wave(100_000, STEADY, lossy, rng(1)) > simulate_wave(100_000, STEADY, steady, rng(1)) * 1.02


def test_a_plan_counts_waves_files_and_bytes() -> None:
    cluster = Cluster(gpus=4, tokens_per_second=1e6, losses_per_hour=0.0, load_s=0.0)
    planned = plan(STEADY, cluster, 50_000, COSTS)
    assert (planned.waves, planned.tasks, planned.journal_files) == (20, 12, 240)
    assert planned.journal_bytes == 500e6
    cores = 4 * cluster.cores / COSTS.slots
    assert planned.hours["publish"] * 3600 == pytest.approx(1.0 + 1_000_000 * 1e-5 / cores)
    assert planned.embed_hours * 3600 == pytest.approx(planned.waves * planned.wave_s)


def test_larger_waves_keep_more_gpus_busy() -> None:
    cluster = Cluster(gpus=512, tokens_per_second=30_000.0)
    table = Table(rows=100_000_000, tokens=400.0, spread=1.0, text_bytes=1_000.0, dim=100)
    small, large = (plan(table, cluster, wave_rows, COSTS).busy_share for wave_rows in (50_000, 12_800_000))
    assert small < 0.6 < large
    chosen = best_wave_rows(table, cluster, COSTS)
    assert chosen > 50_000
    assert plan(table, cluster, chosen, COSTS, samples=2).busy_share >= 0.95


def test_the_page_has_each_trial_and_each_scale() -> None:
    rows = [measured(trial) for trial in trials(1_000)]
    found = report(rows, {"texts": 10, "tokens": 442.0, "spread": 1.4, "text_bytes": 1_600.0}, "measured")
    assert found["scale-trials"].count("\n|") == len(rows) + 2
    assert "A wave more costs 0.50 s" in found["scale-costs"]
    assert all(f"| {rows:,} |" in found["scale"] for rows in (1_000_000, 100_000_000, 10_000_000_000))


def test_sizes_read_well() -> None:
    assert [size(n) for n in (999, 1500, 2.5e12, 3.2e16)] == ["999 B", "1.5 kB", "2.5 TB", "32 PB"]


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False], ids=["inplace", "target"])
def test_a_table_is_measured_with_what_a_night_writes(spark: SparkSession, tmp_path: Path, tiny_model_dir: Path, in_place: bool) -> None:
    found = {}
    for deletion_vectors in (False, True):
        trial = Trial(200, waves=2, columns=3, in_place=in_place, deletion_vectors=deletion_vectors)
        found[deletion_vectors] = measure(spark, trial, tmp_path / str(deletion_vectors), tiny_model_dir)
    assert found[True]["waves"] == 2
    assert found[True]["night_written"] < found[False]["night_written"] / 2  # two rows of two hundred
    assert min(found[True][f"{phase}_s"] for phase in PHASES) > 0
    assert found[True]["journal_row_bytes"] > 4 * found[True]["dim"]
