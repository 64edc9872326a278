"""The simulation of large jobs, held against arithmetic that can be done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import MEASURED, markdown, report, size, write_between_markers
from benchmarks.scale_model import Cluster, Table, best_wave_rows, plan, simulate_wave
from metaeol_udf.delta.write.waves import task_count

PHASES = ("select", "append", "merge_target", "verify", "merge_in_place")
COSTS = {
    "dim": 100,
    "slots": 2,
    "phases": {phase: {"fixed_s": 1.0, "row_s": 1e-5} for phase in PHASES},
    "sizes": {"journal_row_bytes": 500.0, "target_row_bytes": 450.0, "log_file_bytes": 600.0},
}
STEADY = Table(rows=1_000_000, tokens=100.0, spread=0.0, dim=100)


def test_equal_tasks_on_gpus_that_are_never_lost_take_as_long_as_by_hand() -> None:
    cluster = Cluster(gpus=4, tokens_per_second=1000.0, losses_per_hour=0.0, task_s=0.0)
    tasks = task_count(10_000, 4)
    assert tasks == 12
    rounds = 3
    by_hand = rounds * 10_000 / tasks * 100 / 1000.0
    assert simulate_wave(10_000, STEADY, cluster, np.random.default_rng(0)) == pytest.approx(by_hand)


def test_lost_executors_make_a_wave_longer() -> None:
    steady = Cluster(gpus=8, tokens_per_second=1000.0, losses_per_hour=0.0)
    lossy = Cluster(gpus=8, tokens_per_second=1000.0, losses_per_hour=5.0)
    rng = np.random.default_rng
    assert simulate_wave(100_000, STEADY, lossy, rng(1)) > simulate_wave(100_000, STEADY, steady, rng(1)) * 1.02


def test_a_plan_counts_waves_files_and_bytes() -> None:
    cluster = Cluster(gpus=4, tokens_per_second=1e6, losses_per_hour=0.0, load_s=0.0)
    planned = plan(STEADY, cluster, 50_000, COSTS)
    assert (planned["waves"], planned["tasks"], planned["journal_files"]) == (20, 12, 240)
    assert planned["journal_bytes"] == 500e6
    assert planned["log_bytes"] == 240 * 600
    cores = 4 * cluster.cores / COSTS["slots"]  # type: ignore[operator]
    assert planned["merge_target_hours"] * 3600 == pytest.approx(1.0 + 1_000_000 * 1e-5 / cores)
    assert planned["embed_hours"] * 3600 == pytest.approx(planned["waves"] * planned["wave_s"])


def test_larger_waves_keep_more_gpus_busy() -> None:
    cluster = Cluster(gpus=512, tokens_per_second=30_000.0)
    table = Table(rows=100_000_000, tokens=400.0, spread=1.0, dim=100)
    small, large = (plan(table, cluster, wave_rows, COSTS)["used_share"] for wave_rows in (50_000, 12_800_000))
    assert small < 0.6 < large
    chosen = best_wave_rows(table, cluster, COSTS)
    assert chosen > 50_000
    assert plan(table, cluster, chosen, COSTS, samples=2)["used_share"] >= 0.95


def test_sizes_and_tables_read_well() -> None:
    assert [size(n) for n in (999, 1500, 2.5e12, 3.2e16)] == ["999 B", "1.5 kB", "2.5 TB", "32 PB"]
    assert markdown([{"a": 1, "b": "x"}]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_the_page_is_what_the_kept_measurements_give(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
    copy = tmp_path / "scale.md"
    copy.write_text(page.read_text())
    write_between_markers(copy, report(json.loads(MEASURED.read_text())))
    assert copy.read_text() == page.read_text()
