"""The state machine finds what it is there for: with one guard of the job broken, one of the two hundred sequences fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, rule
from pyspark.sql import Column, SparkSession

from metaeol_udf.delta import pipeline
from metaeol_udf.delta.select import changed_files, selection
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine import machine as state_machine
from tests.delta.state_machine.machine import AnyChange, any_change, run_random_sequences


def any_vector_is_whole(vector: Column, length: int) -> Column:
    return vector.isNotNull()


def nothing(*arguments: Any, **options: Any) -> None:
    return None


Broken = list[tuple[Any, str, Callable[..., Any]]]

#: What is broken: where, and by what; the sequence that shows it, by its number (as in `test_any_change.py`, with a thousand more in
#: place) and its place; and what is said.
FAULTS: dict[str, tuple[Broken, tuple[int, int], str]] = {
    "a vector counts whatever is in it": ([(selection, "is_whole", any_vector_is_whole)], (1104, 7), "holds .* rather than"),
    "rows stay whose key left the source": (
        [(pipeline, "count_orphans", lambda job: 0)],
        (104, 2),
        "rows stayed whose keys left the source",
    ),
    "the quarantine is never reconciled": ([(pipeline, "reconcile_quarantine", nothing)], (181, 3), "the quarantine lists"),
    "what a killed run journalled is computed again": (
        [(Journal, "finished", lambda self: self.rows().select("fingerprint").limit(0))],
        (1162, 11),
        "texts were computed again that a killed run had journalled",
    ),
    "other writers' commits since the proof are not looked at": (
        [(changed_files, "why_target_is_unproven", nothing), (changed_files, "why_source_is_unproven", nothing)],
        (255, 11),
        "rows are missing|holds .* rather than",
    ),
}


def idle(step: Any) -> Any:
    """Make a rule that draws what another one draws and does nothing."""

    def do_nothing(state: RuleBasedStateMachine, **choices: Any) -> None:
        """Take no step."""

    do_nothing.__name__ = step.function.__name__
    return rule(**step.arguments)(do_nothing)


#: Draws the same sequences as `AnyChange`, and takes none of their steps.
Skipped: Any = type(
    "Skipped", (RuleBasedStateMachine,), {"begin": AnyChange.begin} | {r.function.__name__: idle(r) for r in AnyChange.setup_state().rules}
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_guard_is_found(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, fault: str) -> None:
    broken, (number, place), complaint = FAULTS[fault]
    complaints: list[str] = []
    n_made = 0

    def note(found: Iterable[str]) -> None:
        texts = list(found)
        complaints.extend(texts)
        assert not texts, texts

    with ExitStack() as stack:
        machine = stack.enter_context(any_change(spark, tmp_path, spec, in_place=number > 1000))
        for where, name, by in [*broken, (state_machine, "complain", note)]:
            stack.enter_context(mock.patch.object(where, name, by))

        def only_one() -> RuleBasedStateMachine:
            nonlocal n_made
            n_made += 1
            made: RuleBasedStateMachine = machine() if n_made == place + 1 else Skipped()
            return made

        with pytest.raises((AssertionError, HypothesisException)):  # the latter where it is run again and the steps are skipped
            run_random_sequences(only_one, 10, number)  # type: ignore[arg-type]  # any machine will do
    assert re.search(complaint, "\n".join(complaints)), complaints
