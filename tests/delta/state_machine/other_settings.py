"""The machine with other settings: several columns in one run, passages of a text that is made of two columns, and keys that are made."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from transformers import AutoTokenizer

from metaeol_udf.config import JobConfig
from metaeol_udf.delta import run_embed
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.prompts.passages import spans_of
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.spec import Passage
from tests.delta.state_machine.machine import EMBEDDINGS, AnyChange
from tests.delta.state_machine.model import Embedding, Row, Seen, by_key
from tests.table_bench import POISON, SENTENCES, Silence


class SeveralColumns(AnyChange):
    """One whose runs over both text columns are one run, of a configuration that lists them."""

    is_one = True

    def _embed(self, *names: str) -> dict[str, Any]:
        """Run over the embeddings, which one configuration lists; gives the first one's report."""
        if len(names) == 1:
            return super()._embed(*names)
        blocks = self._bench.blocks(
            target={"table": self._path("target"), "max_deleted_fraction": 1.0}, runtime={"report": None, "wave_rows": 2}
        )
        entries = [dict(zip(("text", "column", "layer"), EMBEDDINGS[name], strict=True)) for name in names]
        report: dict[str, Any] = run_embed({**blocks, "embeddings": entries}, self._spark, Silence())["columns"][0]
        return report


#: What stands in the table for a short text.
LONGER = {
    "two": " ".join(SENTENCES),
    "two.": " ".join([SENTENCES[2], SENTENCES[0], SENTENCES[1]]),
    "ein längerer Text": " ".join(SENTENCES * 2),
    f"a {POISON} here": " ".join([SENTENCES[0], f"A {POISON} is here.", *SENTENCES]),
}
MAX_TOKENS = 24
#: By the names of `EMBEDDINGS`: how texts are split, and the layer that makes another spec of it.
SPLITS = {
    "title": (Passage(tokens=16, overlap=0), -1),
    "body": (Passage(tokens=20, overlap=6, by="token"), -1),
    "title by layer 0": (Passage(tokens=16, overlap=0), 0),
}


class Passages(AnyChange):
    """One whose target holds a row for each passage of the text that both columns make."""

    def run_two_at_once(self, what: str) -> None:
        """Is no rule here: such a table has one column of vectors."""

    def _text(self, text: str | None) -> str | None:
        return LONGER.get(text, text) if text is not None else None

    def _look(self, name: str) -> Seen:
        """Look at the passages that the source's texts have, as if they were its rows."""
        source = [passage for row in self._rows(self._path("source")) for passage in self._split(row, name)]
        return Seen(by_key(source), by_key(self._rows(self._path("target"))), self._rows(f"{self._path('target')}__metaeol_quarantine"))

    def _split(self, row: Row, name: str) -> list[Row]:
        """Make the rows that must be there for a row of the source, and check that their passages cover its text."""
        text = joined(row["title"], row["body"])
        spans = [] if text is None else spans_of(text, SPLITS[name][0], "paper", MAX_TOKENS, _tokenizer(self._bench.spec.model))
        if text is None or not spans:
            return [{**row, "passage": 0, "start": 0, "end": 0, "text": text}]
        covered = 0
        for start, end in spans:
            assert not text[covered:start].strip(), (text, spans)
            assert end > covered, (text, spans)
            covered = end
        assert not text[covered:].strip(), (text, spans)
        return [{**row, "passage": n, "start": start, "end": end, "text": text[start:end]} for n, (start, end) in enumerate(spans)]

    def _config(self, name: str, wave_rows: int = 50_000) -> JobConfig:
        by, layer = SPLITS[name]
        return self._bench.config(
            source={"text": ["title", "body"], "format_text": "{title} {body}"},
            target={"table": self._path("target"), "max_deleted_fraction": 1.0},
            embedding={"layer": layer, "max_tokens": MAX_TOKENS, "long_texts": "passages", "passage": by},
            runtime={"report": None, "wave_rows": wave_rows},
        )

    def _embedding(self, name: str) -> Embedding:
        resolved = resolve_local(self._config(name).embedding.of_one_passage())
        return Embedding("text", "embedding", resolved.fingerprint, resolved.vector_length)


#: By the names of `EMBEDDINGS`: the columns whose values are part of a made key beside the text, the text column, and the layer.
MADE_OF: dict[str, tuple[list[str] | None, str, int]] = {
    "title": (None, "title", -1),
    "body": (["size"], "body", -1),
    "title by layer 0": (None, "title", 0),
}


class MadeKeys(AnyChange):
    """One whose rows are named by a key that is made: a changed text is another key, and equal texts are one row of the target."""

    def run_two_at_once(self, what: str) -> None:
        """Is no rule here: each run would take the other one's keys for rows that left the source."""

    def _key(self, table: str) -> str:
        return "metaeol_key" if table == "target" else "id"

    def _third(self, table: str, third: int) -> str:
        return f"pmod(xxhash64(metaeol_key), 3) = {third}" if table == "target" else super()._third(table, third)

    def _look(self, name: str) -> Seen:
        """Look at the source's rows by the key that the job makes of them; those of one key are one row."""
        columns, text, _ = MADE_OF[name]
        found: dict[str, list[Row]] = {}
        for row in self._rows(self._path("source")):
            found.setdefault(made_key(row[text], *[row[column] for column in columns or ()]), []).append(row)
        source = {
            key: {"metaeol_key": key, "text": rows[0][text], "rows": sorted(map(repr, rows))}  # nobody may change any of them
            for key, rows in found.items()
        }
        return Seen(source, by_key(self._rows(self._path("target"))), self._rows(f"{self._path('target')}__metaeol_quarantine"))

    def _config(self, name: str, wave_rows: int = 50_000) -> JobConfig:
        columns, text, layer = MADE_OF[name]
        return self._bench.config(
            source={"key": "auto", "key_columns": columns, "text": text},
            target={"table": self._path("target"), "max_deleted_fraction": 1.0},
            embedding={"layer": layer},
            runtime={"report": None, "wave_rows": wave_rows},
        )

    def _embedding(self, name: str) -> Embedding:
        resolved = resolve_local(self._config(name).embedding)
        return Embedding("text", "embedding", resolved.fingerprint, resolved.vector_length)


def made_key(*parts: str | int | None) -> str:
    """Make the key of a row's text and of its other values."""
    digests = ["null" if part is None else hashlib.sha256(str(part).encode()).hexdigest() for part in parts]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]


def joined(*parts: str | None) -> str | None:
    """Join the parts that say something, as `{title} {body}` does; None where all are NULL."""
    there = [part for part in parts if part is not None and part.strip()]
    return " ".join(there) if there or any(part is not None for part in parts) else None


@functools.cache
def _tokenizer(model: str) -> PromptTokenizer:
    return PromptTokenizer(AutoTokenizer.from_pretrained(model))
