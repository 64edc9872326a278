"""Fixtures that several rooms share: one real Spark with Delta, the demo model, random small ones, a table with a job on it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from metaeol_udf import MetaEOLEncoder
    from metaeol_udf.spec import EmbeddingSpec
    from tests.table_bench import Bench

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct"


#: Rooms with tests that need no JVM.
WITHOUT_JVM = (
    "cli",
    "compatibility",
    "encoder",
    "evaluation",
    "explain",
    "prompts",
    "quality",
    "report_page",
    "serving",
    "setup",
    "tuning",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-jvm", action="store_true", help="leave out the tests that need a JVM")


#: Files that take minutes. The command line keeps their place: `--no-loadscope-reorder`.
LONGEST = (
    "delta/state_machine/test_any_change.py", "delta/test_job.py", "delta/test_resume.py", "delta/test_what_changed.py",
    "delta/test_stored_state.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, so that two processes end together, and leave out what needs Spark where that is asked for."""
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").as_posix() not in LONGEST)
    if not config.getoption("--no-jvm"):
        return
    kept = [item for item in items if _room(item) in WITHOUT_JVM and "spark" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


@pytest.fixture(autouse=True)
def _logging_stays_on() -> Iterator[None]:
    """Fail the test that turns logging off for every test after it."""
    yield
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The demo model, SmolLM2-135M-Instruct: `make test` makes it where it is missing."""
    if not (MODEL / "config.json").is_file():
        pytest.fail(f"{MODEL.relative_to(ROOT)} is missing: `make test` makes it", pytrace=False)
    return MODEL


@pytest.fixture(scope="session")
def tiny_model_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and 32 dimensions with the demo model's tokenizer: a true transformer that costs nothing."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_dir / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two Python workers side by side, on Delta; named tables live in a temporary warehouse."""
    from tests.sessions import run_session

    # For ten rows adaptive plans are twice the jobs, and to compile a plan takes longer than to run it. The fault checks run with what
    # users have.
    quick = {
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    yield from run_session(tmp_path_factory.mktemp("warehouse"), **quick)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make, once a session, the folder of a tiny checkpoint: `tiny_model(shape, tokenizer="byte_level")`."""
    return _once_a_session(tmp_path_factory, head=False)


@pytest.fixture(scope="session")
def with_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make, once a session, the folder of a tiny checkpoint with a language-model head: called as `tiny_model`."""
    return _once_a_session(tmp_path_factory, head=True)


def _once_a_session(tmp_path_factory: pytest.TempPathFactory, *, head: bool) -> Callable[..., Path]:
    from tests.tiny_models import save_tiny_model

    made: dict[tuple[str, str], Path] = {}

    def make(shape: str, tokenizer: str = "byte_level") -> Path:
        if (shape, tokenizer) not in made:
            made[shape, tokenizer] = save_tiny_model(tmp_path_factory.mktemp(f"{shape}-{tokenizer}"), shape, tokenizer, head=head)
        return made[shape, tokenizer]

    return make


@pytest.fixture(scope="session")
def spec(tiny_model_dir: Path) -> EmbeddingSpec:
    """A spec over the tiny model."""
    from metaeol_udf.spec import EmbeddingSpec

    return EmbeddingSpec(model=str(tiny_model_dir), dtype="float32", max_tokens=64)


@pytest.fixture(scope="session")
def encoder(spec: EmbeddingSpec) -> MetaEOLEncoder:
    """The engine by itself: what vectors of tables are compared with."""
    from metaeol_udf import MetaEOLEncoder

    return MetaEOLEncoder.from_spec(spec, device="cpu")


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec) -> Iterator[Bench]:
    """A folder with a table for one test, and the job on it."""
    from tests.table_bench import Bench

    yield Bench(spark, tmp_path, spec)
    spark.catalog.clearCache()
