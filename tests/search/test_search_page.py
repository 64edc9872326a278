"""docs/search.md does what it says, and near-duplicates of real vectors are found as often as it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.cli.demo import collect_docstrings
from metaeol_udf.search import near_duplicates
from tests.doc_page import assert_same_output, blocks_of, run_block, said_by

pytestmark = pytest.mark.slow  # `make test-slow`
_ELSEWHERE = ("Handing over to an index", "Lance", "PostgreSQL with pgvector", "FAISS", "Databricks AI Search")  # tests/integrations
BLOCKS = [block for block in blocks_of("search.md") if block.section not in _ELSEWHERE and block.language in ("yaml", "python", "console")]


@pytest.fixture(scope="module")
def names(spark: SparkSession, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the page's code shares, and a folder of its own as the current one."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "models").symlink_to(model_dir.parent)
    before = Path.cwd()
    os.chdir(folder)
    yield {"spark": spark}
    os.chdir(before)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_prints_what_the_page_says(number: int, names: dict[str, Any]) -> None:
    block = BLOCKS[number]
    printed = run_block(block, names)
    if printed is None:
        assert Path(block.code.splitlines()[0].removeprefix("# ")).is_file()
    else:
        assert_same_output(printed, said_by(block))


def edited(text: str) -> str:
    """The text with a small difference, as careless copies have."""
    return text.replace(".", "").replace("the ", "") if len(text) % 2 else text.upper().capitalize()


def test_the_recall_on_real_vectors_is_what_the_page_says(spark: SparkSession, model_dir: Path) -> None:
    texts = list(collect_docstrings().values())[:200]
    texts += [edited(text) for text in texts[::2]]
    templates = TemplateSet.load("metaeol-fast")
    encoder = MetaEOLEncoder.from_pretrained(str(model_dir), templates=templates, layer=28, dtype="auto", device="cpu", max_tokens=48)
    vectors = encoder.encode(texts)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit @ unit.T).astype(np.float32)
    threshold = 0.98
    wanted = {(i, j) for i, j in np.argwhere(np.triu(cosines >= np.float32(threshold), k=1)).tolist()}
    assert len(wanted) >= 80
    offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
    table = pa.table({"id": pa.array(range(len(vectors))), "embedding": pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel()))})
    found = {(row["id1"], row["id2"]) for row in near_duplicates(spark.createDataFrame(table), threshold=threshold).collect()}
    assert found <= wanted
    assert len(found) >= 0.95 * len(wanted), f"{len(found)} of {len(wanted)}"
