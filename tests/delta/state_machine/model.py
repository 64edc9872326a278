"""What must hold after a run, in plain Python: a function of what the tables held before the run and hold after it.

What people do to the tables is read off the tables, for Delta keeps that right. What the job makes of it is worked out here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.delta.state_machine.stand_in import FAILED, row_fingerprint, vector_of
from tests.table_bench import POISON

OURS = ["embedding", "embedding_error", "embedding_fingerprint"]

#: What may happen to stored results. A vector of another row is left out: nothing can tell it.
GARBLED = {
    "no vector": "embedding = NULL",
    "a short vector": "embedding = slice(embedding, 1, 3)",
    "a long vector": "embedding = concat(embedding, array(float(1)))",
    "NaN inside": "embedding = transform(embedding, (x, i) -> if(i = 0, float('NaN'), x))",
    "infinity inside": "embedding = transform(embedding, (x, i) -> if(i = 1, float('-Infinity'), x))",
    "NULL inside": "embedding = transform(embedding, (x, i) -> if(i = 2, NULL, x))",
    "a vector for no text": "embedding = coalesce(embedding, array(float(1)))",
    "an error": "embedding_error = 'oom', embedding = NULL",
    "an error beside the vector": "embedding_error = 'oom'",
    "another row's error": "embedding_error = 'null_text'",
    "no error": "embedding_error = NULL",
    "no fingerprint": "embedding_fingerprint = NULL",
    "a garbled fingerprint": "embedding_fingerprint = reverse(embedding_fingerprint)",
    "nothing": "embedding = NULL, embedding_error = NULL, embedding_fingerprint = NULL",
}

Row = Mapping[str, Any]
Rows = Mapping[Any, Row]  # by key
Outcome = tuple[tuple[float, ...] | None, str | None]  # vector and error


@dataclass(frozen=True)
class Embedding:
    """What one run embeds.

    Attributes:
        text: The text column.
        vector: The vector column.
        spec_fingerprint: The spec's fingerprint.
        length: Numbers of a vector.
    """

    text: str
    vector: str
    spec_fingerprint: str
    length: int

    @property
    def columns(self) -> tuple[str, str, str]:
        """Name the columns of vector, error and fingerprint."""
        return self.vector, f"{self.vector}_error", f"{self.vector}_fingerprint"

    def fingerprint(self, source_row: Row) -> str:
        """Make the row fingerprint that a row of the source must have."""
        return row_fingerprint(self.spec_fingerprint, source_row[self.text])

    def wanted(self, source_row: Row) -> Outcome:
        """Say what a run must store for a row of the source."""
        text: str | None = source_row[self.text]
        if _textless_error(text) is not None or text is None:
            return None, _textless_error(text)
        if POISON in text:
            return None, FAILED
        return tuple(vector_of(self.spec_fingerprint, text, self.length).tolist()), None

    def stored(self, row: Row) -> Outcome:
        """Read what is stored in a row of the table with vectors; a column that is not there is NULL."""
        vector, error = (row.get(name) for name in self.columns[:2])
        return None if vector is None else tuple(vector), error

    def is_done(self, source_row: Row, row: Row | None) -> bool:
        """Tell by its stored state whether a row needs no work."""
        if row is None or row.get(self.columns[2]) != self.fingerprint(source_row):
            return False
        vector, error = self.stored(row)
        textless = _textless_error(source_row[self.text])
        if textless is not None:
            return vector is None and error == textless
        usable = vector is not None and len(vector) == self.length and all(x is not None and math.isfinite(x) for x in vector)
        return usable and error is None

    def due(self, seen: Seen) -> set[str]:
        """Find the row fingerprints of the texts that a run may hand to the model."""
        rows = [row for key, row in seen.source.items() if not self.is_done(row, seen.stored.get(key))]
        return {self.fingerprint(row) for row in rows if _textless_error(row[self.text]) is None}

    def failing(self, seen: Seen) -> set[str]:
        """Find the row fingerprints of the texts that the model fails on."""
        return {self.fingerprint(row) for row in seen.source.values() if self.wanted(row)[1] == FAILED}


def _textless_error(text: str | None) -> str | None:
    return "null_text" if text is None else None if text.strip() else "empty_text"


@dataclass(frozen=True)
class Seen:
    """The tables at one moment.

    Attributes:
        source: Rows of the source.
        stored: Rows of the table that vectors are written to: the source itself, or the target. None where there is no target.
        quarantine: Rows of the quarantine; none where there is no such table.
    """

    source: Rows
    stored: Rows
    quarantine: list[Row]


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        before: The tables before it.
        after: The tables after it.
        calls: Row fingerprints of the texts that reached the model.
    """

    before: Seen
    after: Seen = field(default_factory=lambda: Seen({}, {}, []))
    calls: list[str] = field(default_factory=list)


def key_of(row: Row) -> Any:
    """Read the key off a row: of a passage that is its text's key, its number and its place in the text."""
    if "metaeol_key" in row:
        return row["metaeol_key"]
    return (row["id"], row["passage"], row["start"], row["end"]) if "passage" in row else row["id"]


def by_key(rows: list[Row]) -> Rows:
    """Arrange rows by their key, which must be another one in each."""
    found = {key_of(row): row for row in rows}
    assert len(found) == len(rows), f"a key stands in several rows: {sorted(key_of(row) for row in rows)}"
    return found


def complaints_of_any_run(embeddings: list[Embedding], run: Run, *, is_one: bool, is_stream: bool = False) -> Iterator[str]:
    """Find what no run may do, not even one that was killed, that tries again a few rows, or that follows a stream.

    `embeddings` are those of the run, or of several runs at once, where it is not one. A stream that begins looks at the whole table, and
    once more at the newest commit: a text that failed is then tried again.
    """
    before, after, calls = run.before, run.after, run.calls
    due = set().union(*(embedding.due(before) for embedding in embeddings))
    if set(calls) - due:
        yield f"texts that needed no work reached the model: {sorted(set(calls) - due)}"
    tried_again = set().union(*(embedding.failing(after) for embedding in embeddings)) if is_stream else set()
    repeated = [call for call, n in Counter(calls).items() if n > 1 and call not in tried_again]
    if repeated and is_one:  # two runs at once may meet the same text in two columns
        yield f"texts reached the model more than once: {repeated}"
    ours = {name for embedding in embeddings for name in embedding.columns}
    yield from _touched("the source", before.source, after.source, ours)
    present = {key: row for key, row in before.stored.items() if key in before.source}
    yield from _touched("the table with vectors", present, after.stored, ours)
    for embedding in embeddings:
        for key, row in after.source.items():
            if embedding.is_done(row, after.stored.get(key)):
                if embedding.stored(after.stored[key]) != embedding.wanted(row):
                    yield f"row {key} looks done, and {embedding.vector} holds another vector than that of its text"
            elif embedding.is_done(row, before.stored.get(key)):
                yield f"row {key} was done, and lost its {embedding.vector}"


def complaints_of_whole_run(embedding: Embedding, run: Run, at_once: list[Embedding]) -> Iterator[str]:
    """Find where a run over all rows, which ended by itself, left other rows than it must; `at_once` are all runs that were at work."""
    after = run.after
    if after.source.keys() - after.stored.keys():
        yield f"rows are missing: {sorted(after.source.keys() - after.stored.keys())}"
    if after.stored.keys() - after.source.keys():
        yield f"rows stayed whose keys left the source: {sorted(after.stored.keys() - after.source.keys())}"
    for key in after.source.keys() & after.stored.keys():
        wanted, stored = embedding.wanted(after.source[key]), embedding.stored(after.stored[key])
        if stored != wanted:
            yield f"row {key} with the text {after.source[key][embedding.text]!r} holds {_short(stored)} rather than {_short(wanted)}"
    yield from complaints_of_quarantine(embedding, run, at_once)


def complaints_of_report(embedding: Embedding, run: Run, report: dict[str, Any]) -> Iterator[str]:
    """Find where the report of a run over all rows counts other rows without a vector than there are."""
    n_failed = sum(row.get(embedding.columns[1]) is not None for row in run.after.stored.values())
    if report["rows_without_vector"] != n_failed:
        yield f"the report counts {report['rows_without_vector']} rows without a vector by {embedding.vector}, and there are {n_failed}"


def complaints_of_quarantine(embedding: Embedding, run: Run, at_once: list[Embedding]) -> Iterator[str]:
    """Find where the quarantine is not what the table's rows with an error are, or lost rows of another vector column."""
    after = run.after
    listed = [(key_of(row), row["reason"]) for row in after.quarantine if row["vector_column"] == embedding.vector]
    failed = [(key, row.get(embedding.columns[1])) for key, row in after.stored.items() if key in after.source]
    failed = [(key, error) for key, error in failed if error is not None]
    if sorted(listed) != sorted(failed):
        yield f"the quarantine lists {sorted(listed)}, and {embedding.vector} failed in {sorted(failed)}"
    at_work = {other.vector for other in at_once}
    others = [_of_another_column(seen, at_work, after.source) for seen in (run.before, after)]
    if others[0] != others[1]:
        yield f"the quarantine of other columns than {embedding.vector} was {others[0]}, and is {others[1]}"


def _of_another_column(seen: Seen, at_work: set[str], present: Iterable[int]) -> list[str]:
    """Find the quarantine's rows of other vector columns, but for those of keys that left the source."""
    return sorted(repr(row) for row in seen.quarantine if row["vector_column"] not in at_work and key_of(row) in set(present))


def _touched(table: str, before: Rows, after: Rows, ours: set[str]) -> Iterator[str]:
    """Find rows and values of other people that a run took away or changed. Values are compared as they are written: NaN is NaN."""
    for key, row in before.items():
        others = {name: repr(value) for name, value in row.items() if name not in ours}
        if key not in after:
            yield f"row {key} of {table} is gone"
            continue
        found = {name: repr(after[key].get(name, "no such column")) for name in others}
        if found != others:
            changed = [f"{name} was {others[name]} and is {found[name]}" for name in others if found[name] != others[name]]
            yield f"row {key} of {table}: {'; '.join(changed)}"


def _short(outcome: Outcome) -> str:
    vector, error = outcome
    return f"{'no vector' if vector is None else f'a vector of {len(vector)} numbers that begins {vector[:3]}'} and error {error!r}"
