from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from metaeol_udf.config import (
    EstimateConfig,
    EvaluationConfig,
    QualityConfig,
    RuntimeConfig,
    SourceConfig,
    SparkConfig,
    StreamConfig,
    TargetConfig,
    load_config,
    parse_config,
)
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import SETTINGS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL)


def printed_by(code: str, **names: object) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), names)
    return output.getvalue()


def test_every_python_example_shows_its_output() -> None:
    assert len(EXAMPLES) == README.count("```python") == 2


@pytest.mark.long
def test_the_encoder_example_prints_what_the_readme_says(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_dir.parents[1])
    code, output = EXAMPLES[0]
    assert printed_by(code) == output


def test_the_spark_example_prints_what_the_readme_says(spark: SparkSession, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_dir.parents[1])
    code, output = EXAMPLES[1]
    assert printed_by(code, spark=spark) == output


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_ships_can_be_read(path: Path) -> None:
    assert load_config(path).embedding.model == "models/smollm2-135m-instruct"


def test_the_example_template_set_can_be_read() -> None:
    assert [t.meta_task for t in TemplateSet.load(ROOT / "conf/templates/support-tickets.yaml").templates] == [
        "product area",
        "urgency",
        "request",
    ]


def settings() -> set[tuple[str, str]]:
    """Section and key of everything that a configuration may hold."""
    sections = {
        "source": SourceConfig, "target": TargetConfig, "runtime": RuntimeConfig,
        "stream": StreamConfig, "estimate": EstimateConfig, "evaluation": EvaluationConfig,
        "quality": QualityConfig, "spark": SparkConfig,
    }  # fmt: skip
    found = {(name, field.name) for name, kind in sections.items() for field in dataclasses.fields(kind)}
    return found | {("embedding", key) for key in ("column", *SETTINGS)}


def test_the_example_configuration_holds_every_setting_with_its_default() -> None:
    blocks = yaml.safe_load((ROOT / "conf/embed.yaml").read_text(encoding="utf-8"))
    assert {(section, key) for section, block in blocks.items() for key in block} == settings()
    required = {"source": blocks["source"], "embedding": {"model": blocks["embedding"]["model"]}}
    assert parse_config(blocks) == parse_config(required)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def defaults() -> dict[str, object]:
    """Default of each setting that has one, as `conf/embed.yaml` has it."""
    blocks = yaml.safe_load((ROOT / "conf/embed.yaml").read_text(encoding="utf-8"))
    return {f"{section}.{key}": value for section, block in blocks.items() for key, value in block.items()}


def documented() -> dict[str, str]:
    """What the reference says of each setting, below a heading of its own."""
    page = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8").partition("## What wins")[0]
    return dict(re.findall(r"^### `([\w.]+)`\n\n(.*?)(?=^##|\Z)", page, flags=re.MULTILINE | re.DOTALL))


def test_each_setting_has_a_heading_with_its_default_in_the_reference() -> None:
    sections = documented()
    assert set(sections) == {f"{section}.{key}" for section, key in settings()} | {"embedding.spec"}
    required = {"source.table", "source.key", "embedding.model"}
    for name, value in defaults().items():
        said = re.search(r"default `([^`]*)`", sections[name])
        if name in required:
            assert said is None, name
            assert "required" in sections[name]
        else:
            assert said is not None, name
            assert yaml.safe_load(said.group(1)) == value, name


def test_the_examples_of_the_reference_are_read() -> None:
    given = {"source": {"table": "t", "key": ["id"]}, "target": {"table": "v"}, "embedding": {"model": "m"}}
    examples = [
        (name.partition(".")[0], example)
        for name, text in documented().items()
        for example in re.findall(r"`([^`]+)`", text.partition("Example:")[2])
    ]
    assert len(examples) > 10
    for section, example in examples:
        parse_config({**given, section: {**given.get(section, {}), **yaml.safe_load(example)}})


def test_a_search_shows_as_many_texts_as_it_asks_for() -> None:
    shown = re.findall(r"^\$ metaeol search .* --k (\d+)\n((?:  0\.\d{4}  .*\n)+)", README, flags=re.MULTILINE)
    assert [len(rows.splitlines()) for _, rows in shown] == [int(k) for k, _ in shown] != []
