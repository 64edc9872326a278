from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_IMPORT = re.compile(r"from (metaeol_udf[\w.]*) import ([\w, ]+)")


def modules_after(statement: str) -> set[str]:
    """All modules in a fresh interpreter after a statement."""
    script = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120).stdout.split())


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    return {name.partition(".")[0] for name in modules_after(statement)}


def test_the_engine_imports_no_spark() -> None:
    loaded = loaded_by("import metaeol_udf.encoder.encoder, metaeol_udf.encoder.checkpoint.prepare, metaeol_udf.prompts")
    assert "torch" in loaded
    assert not loaded & {"pyspark", "delta", "py4j"}


def test_the_engine_s_tests_import_no_spark() -> None:
    """`make test-toolchains` runs them in environments without Spark."""
    names = [
        ".".join(path.with_suffix("").parts) for folder in ("tests/encoder", "tests/prompts") for path in Path(folder).rglob("test_*.py")
    ]
    assert len(names) > 20
    loaded = loaded_by(f"import {', '.join(names)}")
    assert not loaded & {"pyspark", "delta", "py4j"}


def test_the_evaluation_imports_no_spark_and_no_optional_package() -> None:
    assert not loaded_by("import metaeol_udf.quality.command") & {"pyspark", "torch", "sklearn", "scipy", "matplotlib"}
    assert not loaded_by("import metaeol_udf.quality.vectors") & {"pyspark", "delta", "py4j"}


@pytest.mark.parametrize(
    "module",
    [
        "metaeol_udf.delta",
        "metaeol_udf.doctor",
        "metaeol_udf.encoder.checkpoint.files",
        "metaeol_udf.estimate",
        "metaeol_udf.search",
        "metaeol_udf.starter",
        "metaeol_udf.spark.sql",
        "metaeol_udf.spark.transformer",
    ],
)
def test_the_driver_imports_neither_torch_nor_transformers(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "transformers"}


def test_the_commands_over_tables_import_no_optional_part() -> None:
    optional = ("metaeol_udf.delta.gate", "metaeol_udf.delta.report", "metaeol_udf.evaluation", "metaeol_udf.report_page")
    loaded = modules_after("import metaeol_udf.delta, metaeol_udf.delta.retry, metaeol_udf.delta.stream")
    assert not {name for name in loaded if name.startswith(optional)}


def test_a_worker_imports_nothing_of_spark_ml() -> None:
    assert "pyspark.ml" not in modules_after("import metaeol_udf.spark.udf, metaeol_udf.spark.worker.embed_column")


def test_the_command_line_starts_without_anything_heavy() -> None:
    loaded = loaded_by("import metaeol_udf.cli")
    assert not loaded & {"torch", "transformers", "pyspark", "pandas", "pyarrow", "numpy", "jinja2"}


def test_the_report_page_needs_neither_spark_nor_torch() -> None:
    assert not loaded_by("import metaeol_udf.report_page") & {"torch", "transformers", "pyspark", "pandas"}


def test_prompts_and_spec_import_nothing_of_the_rooms_above() -> None:
    loaded = loaded_by("import metaeol_udf.prompts.checks, metaeol_udf.prompts.drafts, metaeol_udf.spec")
    assert not loaded & {"torch", "transformers", "pyspark", "pandas"}


def test_the_public_names_are_these() -> None:
    import metaeol_udf
    import metaeol_udf.delta
    import metaeol_udf.encoder
    import metaeol_udf.evaluation
    import metaeol_udf.prompts
    import metaeol_udf.search
    import metaeol_udf.spark

    assert metaeol_udf.__all__ == [
        "EmbeddingSpec", "MetaEOLEmbedder", "MetaEOLEncoder", "MetaEOLError", "TemplateSet", "__version__", "embed_frame", "embed_table",
        "embed_udf", "load_config", "register_sql", "run_embed", "run_retry", "run_stream", "search_table", "with_embeddings",
    ]  # fmt: skip
    assert set(metaeol_udf.__all__) <= set(dir(metaeol_udf))
    assert metaeol_udf.spark.__all__ == ["MetaEOLEmbedder", "embed_udf", "get_session", "register_sql", "with_embeddings"]
    assert metaeol_udf.delta.__all__ == ["Progress", "Report", "run_embed", "run_fit", "run_retry", "run_stream"]
    assert metaeol_udf.encoder.__all__ == ["Encoded", "MetaEOLEncoder"]
    assert metaeol_udf.evaluation.__all__ == [
        "RetrievalScore", "RetrievalTask", "StsScore", "StsTask", "TransferScore", "TransferTask", "evaluate", "load_tasks",
        "score_retrieval", "score_sts", "score_transfer",
    ]  # fmt: skip
    assert metaeol_udf.prompts.__all__ == ["TEXT_SLOT", "PromptTemplate", "TemplateSet", "clean_text"]
    assert metaeol_udf.search.__all__ == [
        "DuplicatePair", "FoundRow", "Hit", "check_queries", "find_duplicates", "near_duplicates", "search_table", "search_vectors",
        "write_duplicates",
    ]  # fmt: skip
    for package in (
        metaeol_udf, metaeol_udf.spark, metaeol_udf.delta, metaeol_udf.encoder, metaeol_udf.evaluation, metaeol_udf.prompts,
        metaeol_udf.search,
    ):  # fmt: skip
        assert all(hasattr(package, name) for name in package.__all__)


def _imported() -> set[tuple[str, str]]:
    """Find what documents, notebooks, examples and job scripts import: pairs of a module and a name."""
    found = set()
    for folder in ("README.md", "docs", "notebooks", "examples", "jobs"):
        place = ROOT / folder
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.suffix in (".md", ".py", ".ipynb"):
                for module, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
                    found |= {(module, name.strip()) for name in names.split(",")}
    return found


def _is_there(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("metaeol_udf"):
            raise
    spec = importlib.util.find_spec(module)  # it needs an optional package that is not here
    return spec is not None and f"class {name}(" in Path(str(spec.origin)).read_text(encoding="utf-8")


def test_names_that_documents_and_notebooks_import_are_there_and_on_the_page_of_public_names() -> None:
    imported = _imported()
    assert len(imported) > 30
    assert [pair for pair in sorted(imported) if not _is_there(*pair)] == []
    pages = "".join((ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") for name in ("python.md", "errors.md"))
    inner = {("metaeol_udf.cli", "run"), ("metaeol_udf.cli", "app")}  # for the job scripts, and for the site's page of commands
    assert [f"{module}.{name}" for module, name in sorted(imported - inner) if re.search(rf"\b{name}\b", pages) is None] == []


def test_places_that_saved_things_hold_stay() -> None:
    from metaeol_udf.spark.transformer import MetaEOLEmbedder  # noqa: F401  # saved pipelines
