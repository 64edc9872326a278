"""Whatever happens to the tables between runs, a run leaves every row right: ten random sequences, and those that once failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine.machine import AnyChange, any_change, run_random_sequences
from tests.delta.state_machine.other_settings import MadeKeys, Passages, SeveralColumns

pytestmark = pytest.mark.timeout(1800)  # ten sequences take minutes, and several times as many on a busy machine


# These two numbers draw every kind of change and of run between them.
@pytest.mark.parametrize(("in_place", "number"), [(True, 105), (False, 149)], ids=["in place", "target"])
def test_whatever_happens_between_runs_a_run_leaves_every_row_right(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, in_place: bool, number: int
) -> None:
    with any_change(spark, tmp_path, spec, in_place=in_place) as machine:
        run_random_sequences(machine, 5, number)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "in_place"), [(SeveralColumns, True), (Passages, False), (MadeKeys, False)])
def test_whatever_happens_other_settings_leave_every_row_right_too(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, kind: type[AnyChange], in_place: bool
) -> None:
    with any_change(spark, tmp_path, spec, in_place=in_place, kind=kind) as machine:
        run_random_sequences(machine, 2, 7)


def two_first_runs_at_once(state: AnyChange) -> None:
    state.remove(what="target")
    state.remove(what="journal")
    state.remove(what="quarantine")
    state.run_two_at_once(what="title")


def a_column_that_went_away(state: AnyChange) -> None:
    state.lose_column(column="embedding", how="rename")
    state.run(command="retry", what="title")


def a_quarantine_that_went_away_before_a_retry(state: AnyChange) -> None:
    state.remove(what="quarantine")
    state.run(command="retry", what="title")


#: Sequences that failed once, in the lines that Hypothesis prints.
KEPT = [(two_first_runs_at_once, False), (a_column_that_went_away, True), (a_quarantine_that_went_away_before_a_retry, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "in_place"), KEPT)
def test_a_sequence_that_failed_once_leaves_every_row_right(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, steps: Callable[[AnyChange], None], in_place: bool
) -> None:
    with any_change(spark, tmp_path, spec, in_place=in_place) as machine:
        state = machine()
        steps(state)
        state.teardown()
