"""Every block of docs/spark.md runs, from top to bottom, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.spark.cluster.connect_server import ConnectServer

pytestmark = pytest.mark.slow  # `make test-slow`
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "spark.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|sql)\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
CONNECT = "sc://localhost:15002"


@pytest.fixture
def workplace(spark: SparkSession, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the repository's `conf` and `models` in it, where the page may write."""
    root = model_dir.parents[1]
    for name in ("conf", "models"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    spark.sql("DROP TABLE IF EXISTS spark_page_vectors")
    for view in ("texts", "sizes"):
        spark.catalog.dropTempView(view)
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS metaeol_embed")


def printed_by(language: str, code: str, names: dict[str, object]) -> str:
    """What a block prints; a query's rows as a table."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        if language == "python":
            exec(compile(code, "docs/spark.md", "exec"), names)
        else:
            session = names["spark"]
            assert isinstance(session, SparkSession)
            found = session.sql(code)
            if found.columns:
                found.show(truncate=False)
    return output.getvalue().rstrip("\n")


def test_the_page_has_examples_of_every_surface() -> None:
    code = "\n".join(block for _, block, _ in BLOCKS)
    assert len(BLOCKS) == PAGE.count("```python") + PAGE.count("```sql")
    for name in (
        "from_spec",
        "with_embeddings",
        "embed_udf",
        "register_sql",
        "vector_cosine_similarity",
        "Pipeline",
        "remote",
        "readStream",
    ):
        assert name in code


def test_every_block_prints_what_the_page_says(spark: SparkSession, workplace: Path) -> None:
    names: dict[str, object] = {"spark": spark}
    for language, code, output in BLOCKS:
        if CONNECT not in code:
            there = code.replace('"spark-page/', f'"{workplace}/spark-page/')  # the JVM's working folder is another
            assert printed_by(language, there, names) == output.rstrip("\n"), code


def test_the_connect_example_prints_what_the_page_says(connect_server: ConnectServer, model_dir: Path) -> None:
    code, output = next((code, output) for _, code, output in BLOCKS if CONNECT in code)
    assert connect_server.run(code.replace(CONNECT, f"sc://127.0.0.1:{connect_server.port}")) == output
