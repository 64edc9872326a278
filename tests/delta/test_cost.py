"""What a run costs beside the model must depend neither on the number of its waves nor, in the night, on the size of the vectors.

Counted from Spark's event log, never by a clock. `python -m benchmarks.cost` shows the same counts on large tables.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost import VECTOR
from benchmarks.event_log import Cost, read_event_log

pytestmark = pytest.mark.slow  # a process of its own, with an event log

ROOT = Path(__file__).resolve().parents[2]
ROWS = 1_000  # a first run in four waves has 250 of them a wave


@dataclass(frozen=True)
class Limit:
    """The most that a run may cost; None sets no limit."""

    jobs: int | None = None
    text_scans: int | None = None  # of the source
    target_scans: int | None = None
    whole_vector_scans: int | None = None  # of all rows of the target


LIMITS = {
    "first run": Limit(text_scans=2),
    "nothing new": Limit(text_scans=0),
    "new rows": Limit(jobs=30, text_scans=1, target_scans=2, whole_vector_scans=0),
}
#: What a first run may shuffle in four waves, by what it shuffles in two. Smaller blocks compress a little worse, and each commit adds
#: some kilobytes of Delta's own log.
MOST_GROWTH = 1.1


@dataclass(frozen=True)
class Runs:
    """The runs over tables of one folder, by their name."""

    folder: Path
    costs: dict[str, Cost]

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def target(self) -> Path:
        return self.folder / "target"

    def appends(self) -> list[dict[str, Any]]:
        """What Delta notes of each append to the journal."""
        log = sorted((self.folder / "target__metaeol_journal" / "_delta_log").glob("*.json"))
        actions = [json.loads(line) for path in log for line in path.read_text().splitlines()]
        commits = [action["commitInfo"] for action in actions if "commitInfo" in action]
        return [commit for commit in commits if commit["operation"] == "WRITE"]


@pytest.fixture(scope="module")
def all_runs(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    """Runs in two waves and in four, and over several columns, in a process of their own: a session cannot begin an event log later."""
    folder = tmp_path_factory.mktemp("cost")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.pop("PYSPARK_GATEWAY_PORT", None)
    command = [sys.executable, str(Path(__file__).with_name("costed_job.py")), str(folder), str(tiny_model_dir), str(ROWS)]
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    log = read_event_log(folder / "log")
    spans = json.loads((folder / "spans.json").read_text())
    return {
        name: Runs(folder / name, {span["name"]: log.cost(span["since_s"], span["until_s"]) for span in found})
        for name, found in spans.items()
    }


@pytest.fixture(scope="module")
def runs(all_runs: dict[str, Runs]) -> dict[int, Runs]:
    """Those over one column, by their waves."""
    return {n_waves: all_runs[f"waves_{n_waves}"] for n_waves in (2, 4)}


def test_a_first_run_reads_the_texts_as_often_for_four_waves_as_for_two(runs: dict[int, Runs]) -> None:
    passes = {n_waves: found.costs["first run"].passes(found.source, "text") for n_waves, found in runs.items()}
    assert passes[4] == passes[2] > 0


def test_a_first_run_shuffles_as_much_for_four_waves_as_for_two(runs: dict[int, Runs]) -> None:
    shuffled = {n_waves: found.costs["first run"].shuffle_bytes for n_waves, found in runs.items()}
    assert 0 < shuffled[4] < MOST_GROWTH * shuffled[2]


@pytest.mark.parametrize("name", LIMITS)
def test_a_run_stays_within_its_limits(runs: dict[int, Runs], name: str) -> None:
    found, limit = runs[4], LIMITS[name]
    cost = found.costs[name]
    counted = {
        "jobs": cost.jobs,
        "text_scans": cost.passes(found.source, "text"),
        "target_scans": cost.passes(found.target),
        "whole_vector_scans": cost.passes(found.target, VECTOR, min_rows=ROWS),
    }
    most = {what: getattr(limit, what) for what in counted}
    assert not {what: (n, most[what]) for what, n in counted.items() if most[what] is not None and n > most[what]}


def test_changed_rows_of_a_table_with_deletion_vectors_are_read_alone(runs: dict[int, Runs]) -> None:
    found = runs[4]
    cost = found.costs["changed rows"]
    assert cost.passes(found.source, "text") > 0
    assert cost.passes(found.source, "text", min_rows=ROWS // 2) == 0
    assert cost.passes(found.target, VECTOR, min_rows=ROWS // 2) == 0
    assert cost.passes(found.target, "embedding_fingerprint", min_rows=ROWS // 2) <= 1  # what is stored for the rows
    assert cost.passes(found.source, "key", min_rows=ROWS // 2) <= 1  # that no key stands there twice
    # Delta's own log makes up about half of this; a shuffle of the keys alone would double it.
    assert cost.shuffle_bytes < 60 * ROWS


@pytest.mark.parametrize("name", LIMITS)
def test_no_run_reads_files_that_no_plan_shows(runs: dict[int, Runs], name: str) -> None:
    assert runs[4].costs[name].unattributed_input_bytes == 0


@pytest.mark.parametrize("n_waves", [2, 4])
def test_every_append_to_the_journal_is_a_blind_one(runs: dict[int, Runs], n_waves: int) -> None:
    appends = runs[n_waves].appends()
    assert len(appends) >= n_waves
    assert all(commit["isBlindAppend"] for commit in appends)


def test_a_first_run_over_several_columns_scans_the_tables_as_often_as_one_over_one(all_runs: dict[str, Runs]) -> None:
    one, several = all_runs["waves_4"], all_runs["several_columns"]
    costs = [found.costs["first run"] for found in (one, several)]
    assert costs[1].passes(several.source, "text") <= costs[0].passes(one.source, "text")
    assert 0 < costs[1].passes(several.source) <= costs[0].passes(one.source)
    assert several.costs["nothing new"].passes(several.source) == 0


def test_a_night_over_several_columns_reads_the_new_rows_once(all_runs: dict[str, Runs]) -> None:
    several = all_runs["several_columns"]
    assert several.costs["new rows"].passes(several.source, "text") == 1
    assert several.costs["new rows"].passes(several.source, "text", min_rows=ROWS // 2) == 0
