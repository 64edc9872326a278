"""Two hundred random sequences of changes and runs, by the state machine of `tests/delta/state_machine`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine.machine import any_change, run_random_sequences


@pytest.mark.parametrize("number", range(100, 110))
@pytest.mark.parametrize("in_place", [True, False], ids=["inplace", "target"])
def test_whatever_happens_between_runs_a_run_leaves_every_row_right(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, in_place: bool, number: int
) -> None:
    with any_change(spark, tmp_path, spec, in_place=in_place) as machine:
        run_random_sequences(machine, 10, number + 1000 * in_place)  # other sequences in place than with a target
