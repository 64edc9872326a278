"""The state machine finds what it is there for: with one guard of the job broken, one of its sequences fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis.errors import HypothesisException
from pyspark.sql import Column, SparkSession

from metaeol_udf.delta import pipeline
from metaeol_udf.delta.select import changed_files, selection
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine import machine as state_machine
from tests.delta.state_machine.machine import any_change, run_random_sequences

MOST = 20  # sequences until a fault is found


def any_vector_is_whole(vector: Column, length: int) -> Column:
    return vector.isNotNull()


def nothing(*arguments: Any, **options: Any) -> None:
    return None


#: What is broken, where, and by what; whether vectors go into the source; and what the machine says then.
FAULTS: dict[str, tuple[list[tuple[Any, str, Callable[..., Any]]], bool, str]] = {
    "a vector counts whatever is in it": ([(selection, "is_whole", any_vector_is_whole)], True, "holds .* rather than"),
    "rows stay whose key left the source": ([(pipeline, "count_orphans", lambda job: 0)], False, "rows stayed whose keys left the source"),
    "the quarantine is never reconciled": ([(pipeline, "reconcile_quarantine", nothing)], False, "the quarantine lists"),
    "what a killed run journalled is computed again": (
        [(Journal, "finished", lambda self: self.rows().select("fingerprint").limit(0))],
        True,
        "texts were computed again that a killed run had journalled",
    ),
    "other writers' commits since the proof are not looked at": (
        [(changed_files, "why_target_is_unproven", nothing), (changed_files, "why_source_is_unproven", nothing)],
        False,
        "rows are missing|holds .* rather than",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_guard_is_found(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, fault: str) -> None:
    broken, in_place, complaint = FAULTS[fault]
    complaints: list[str] = []

    def note(found: Iterable[str]) -> None:
        texts = list(found)
        complaints.extend(texts)
        assert not texts, texts

    with ExitStack() as stack:
        machine = stack.enter_context(any_change(spark, tmp_path, spec, in_place=in_place))
        for where, name, by in [*broken, (state_machine, "complain", note)]:
            stack.enter_context(mock.patch.object(where, name, by))
        # Where the same sequence goes wrong at another step when Hypothesis runs it again, Hypothesis says that instead.
        with pytest.raises((AssertionError, HypothesisException)):
            run_random_sequences(machine, MOST, 100 + 1000 * in_place)
    assert re.search(complaint, "\n".join(complaints)), complaints
