from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metaeol_udf.config import load_config
from metaeol_udf.prompts import TemplateSet

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


def test_the_configuration_table_lists_every_setting() -> None:
    table = README.partition("## Configuration")[2].partition("## Guarantees")[0]
    sections = re.findall(r"^(\w+):\n((?:  .*\n)+)", (ROOT / "conf/embed.yaml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    settings = {(section, key) for section, block in sections for key in re.findall(r"^  (\w+):", block, flags=re.MULTILINE)}
    assert len(settings) == 21
    missing = [f"{section}.{key}" for section, key in settings if f"`{section}.{key}`" not in table and f"`.{key}`" not in table]
    assert missing == []
