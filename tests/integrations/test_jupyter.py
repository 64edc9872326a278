"""The notebooks for Jupyter run in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf import embed_table

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks" / "jupyter"
ANIMALS = ("cat", "dog", "horse", "bird", "fish")
PLACES = ("garden", "house", "river", "street")


def execute(name: str, folder: Path, **parameters: str) -> tuple[Any, str]:
    """Run a notebook in a folder, with other parameters; gives its cells, and what the last one printed."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("parameters = {")]
    head, _, rest = cell.source.partition("\n}")
    cell.source = f"{head}\n}} | {parameters!r}{rest}"
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    (printed,) = [
        output["text"] for output in notebook.cells[-1].outputs if output["output_type"] == "stream" and output["name"] == "stdout"
    ]
    return notebook.cells, printed


def shown_tables(cells: Any) -> list[str]:
    """What the cells show as HTML."""
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A folder with models, as a user's."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(tiny_model_dir)
    return tmp_path


def test_the_quick_start_embeds_and_shows_tables(folder: Path) -> None:
    cells, printed = execute("quick_start", folder, model="models/tiny")
    result = json.loads(printed)
    assert (result["table"], result["rows"]) == ("spark_catalog.default.metaeol_quick_start", 6)
    tables = shown_tables(cells)
    assert len(tables) == 3
    assert "null_text" in tables[0]
    assert "Who plays music?" in tables[2]


def test_the_search_finds_rows_of_an_embedded_table(folder: Path, spark: SparkSession) -> None:
    texts = [(n, f"The {animal} sleeps in the {place}.") for n, (animal, place) in enumerate((a, p) for a in ANIMALS for p in PLACES)]
    table = str(folder / "reviews")
    spark.createDataFrame(texts, "id long, text string").write.format("delta").save(table)
    embed_table(table, key="id", text="text", model=str(folder / "models" / "tiny"), device="cpu", report=None, spark=spark)
    parameters = {"conf": "", "table": table, "model": "models/tiny", "device": "cpu", "query": texts[7][1], "clusters": "3"}
    cells, printed = execute("search", folder, **parameters, picture=str(folder / "map.png"))
    result = json.loads(printed)
    assert result["hits"][0] == {"id": 7}
    assert result["clusters"] == 3
    assert texts[7][1] in shown_tables(cells)[0]
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
