"""The real texts beside the repository, which a test that needs them skips without."""

from __future__ import annotations

from pathlib import Path

import pytest

_CORPUS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "corpus" / "corpus.parquet"


def corpus_texts() -> list[str]:
    """Read the corpus, in its order; skips the test where there is none."""
    if not _CORPUS.is_file():
        pytest.skip("the corpus is not beside the repository")
    import pyarrow.parquet as pq

    column = next(name for name in pq.read_schema(_CORPUS).names if name.casefold() == "text")
    texts: list[str] = pq.read_table(_CORPUS, columns=[column]).column(0).to_pylist()
    return texts
