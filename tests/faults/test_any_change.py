"""Random sequences of changes and runs: two hundred, and as many with other settings, by `tests/delta/state_machine`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine.machine import AnyChange, any_change, run_random_sequences
from tests.delta.state_machine.other_settings import MadeKeys, Passages, SeveralColumns

pytestmark = pytest.mark.timeout(1800)  # ten sequences take minutes, and several times as many on a busy machine


@pytest.mark.parametrize("number", range(100, 110))
@pytest.mark.parametrize("in_place", [True, False], ids=["inplace", "target"])
def test_whatever_happens_between_runs_a_run_leaves_every_row_right(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, in_place: bool, number: int
) -> None:
    with any_change(spark, tmp_path, spec, in_place=in_place) as machine:
        run_random_sequences(machine, 10, number + 1000 * in_place)  # other sequences in place than with a target


@pytest.mark.parametrize("number", range(200, 214))
@pytest.mark.parametrize("kind", [SeveralColumns, Passages, MadeKeys], ids=["settings-columns", "settings-passages", "settings-keys"])
def test_whatever_happens_other_settings_leave_every_row_right_too(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, kind: type[AnyChange], number: int
) -> None:
    with any_change(spark, tmp_path, spec, in_place=kind is SeveralColumns and number % 2 == 0, kind=kind) as machine:
        run_random_sequences(machine, 5, number)
