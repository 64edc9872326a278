"""`metaeol config`: each setting with its place, no secret; and the JSON schema, against the parser."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaeol_udf import cli
from metaeol_udf.config import effective_settings, job_schema, load_encoder_config, parse_config, setting_names
from metaeol_udf.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = job_schema()
JOB = """\
source:
  table: data/tickets
  key: auto
  options: {}
target: {table: data/vectors, deleted: null}
embedding:
  spec: %s
  layer: 1
runtime:
  device: cpu
spark:
  conf:
    spark.hadoop.fs.s3a.secret.key: canarysecret
    spark.executor.memory: 4g
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    inner, outer = tmp_path / "inner.yaml", tmp_path / "outer.yaml"
    inner.write_text("model: m\nlayer: 2\nmax_tokens: 99\n")
    outer.write_text(f"spec: {inner}\nmax_tokens: 64\n")
    path = tmp_path / "job.yaml"
    path.write_text(JOB % outer)
    return path


def test_each_setting_has_the_value_in_force_and_its_place(job: Path) -> None:
    found = {
        each.name: each for each in effective_settings(job, ["runtime.device=cuda", "spark.conf.spark.x=1", "embedding.passage.tokens=64"])
    }
    folder = job.parent
    assert {name: (each.value, str(each.origin)) for name, each in found.items() if str(each.origin) != "default"} == {
        "source.table": ("data/tickets", f"{job}:2"),
        "source.key": ("auto", f"{job}:3"),
        "source.options": ({}, f"{job}:4"),
        "embedding.passage.tokens": (64, "override"),
        "target.table": ("data/vectors", f"{job}:5"),
        "embedding.spec": (str(folder / "outer.yaml"), f"{job}:7"),
        "embedding.model": ("m", f"{folder}/inner.yaml:1"),
        "embedding.layer": (1, f"{job}:8"),
        "embedding.max_tokens": (64, f"{folder}/outer.yaml:2"),
        "runtime.device": ("cuda", "override"),
        "spark.conf.spark.hadoop.fs.s3a.secret.key": ("…", f"{job}:13"),
        "spark.conf.spark.executor.memory": ("…", f"{job}:14"),
        "spark.conf.spark.x": ("…", "override"),
    }
    assert (found["target.deleted"].value, str(found["target.deleted"].origin)) == ("remove", "default")
    assert set(setting_names()) - found.keys() == {"spark.conf", "embedding.passage"}


@pytest.mark.parametrize("how", [[], ["--format", "json"], ["--format", "csv"], ["--json"]])
def test_the_command_prints_settings_and_no_secret(job: Path, how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", str(job), "source.where=link <> 's3a://me:canarysecret@lake/t'", *how]) == 0
    printed = capsys.readouterr().out
    assert "canary" not in printed
    if how[-1:] in (["json"], ["--json"]):
        printed = str([each["value"] for each in json.loads(printed) if each["setting"] == "source.where"])
    assert "s3a://…@lake/t" in printed
    if how == ["--format", "csv"]:
        assert printed.splitlines()[0] == "setting,value,from,file,line"
        assert "embedding.layer,1,file," in printed


def test_a_spec_file_alone_lists_what_needs_no_source() -> None:
    found = {each.name: each for each in effective_settings(ROOT / "conf/specs/smollm2-135m.yaml")}
    assert not [name for name in found if name.startswith(("source.", "target."))]
    assert found["embedding.layer"].origin.kind == "spec"


def test_a_command_without_a_file_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config"]) == 2
    assert "config needs CONF" in capsys.readouterr().err


def complaints(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value breaks a schema, of the words that ours has."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    named = schema.get("type", [])
    named = [named] if isinstance(named, str) else named
    fits = [isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool)) for name in named]  # type: ignore[arg-type]  # classes
    if named and not any(fits):
        return True
    if "enum" in schema and value not in schema["enum"]:
        return True
    if "anyOf" in schema and all(complaints(value, part) for part in schema["anyOf"]):
        return True
    if isinstance(value, str):
        return len(value) < schema.get("minLength", 0) or ("pattern" in schema and not re.search(schema["pattern"], value))
    if isinstance(value, list):
        return len(value) < schema.get("minItems", 0) or any(complaints(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if others is False and value.keys() - known.keys():
            return True
        of_others = others if isinstance(others, dict) else {}
        return bool(set(schema.get("required", ())) - value.keys()) or any(
            complaints(item, known.get(name, of_others)) for name, item in value.items()
        )
    return False


def test_the_schema_that_is_shipped_is_the_parsers() -> None:
    """Make it anew by `metaeol config --schema > conf/embed.schema.json`."""
    shipped = json.loads((ROOT / "conf/embed.schema.json").read_text(encoding="utf-8"))
    assert shipped == SCHEMA
    entry = shipped["properties"].pop("embeddings")["items"]["properties"]
    assert [f"{section}.{key}" for section, block in shipped["properties"].items() for key in block["properties"]] == setting_names()
    assert set(entry) == {"text", "format_text", *shipped["properties"]["embedding"]["properties"]}


@pytest.mark.parametrize("name", ["conf/embed.yaml", "conf/demo.yaml", "conf/platforms/cluster.yaml", "conf/platforms/databricks.yaml"])
def test_configurations_that_are_shipped_suit_the_schema(name: str) -> None:
    load_encoder_config(ROOT / name)
    blocks = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert not complaints(blocks, SCHEMA)
    assert complaints({**blocks, "sourse": {}}, SCHEMA)
    assert complaints({**blocks, "runtime": {"wave_row": 5}}, SCHEMA)
    assert complaints({"source": blocks["source"]}, SCHEMA)


SAMPLES = (
    True, 3, -1, 0.5, "auto", "cuda:1", "30 seconds", "text", ["a"], [], [1, 0.5], [["a"]], {"a": "b"}, {"a": [1]}, None,
)  # fmt: skip


@pytest.mark.parametrize("name", setting_names())
def test_the_schema_takes_what_the_parser_takes(name: str) -> None:
    section, key = name.split(".")
    base: dict[str, dict[str, Any]] = {
        "source": {"table": "a/b", "key": ["id"]}, "target": {"table": "a/c"}, "embedding": {"model": "m"},
    }  # fmt: skip
    if key in ("path", "query"):
        base["source"].pop("table")
    if key in ("format", "options"):
        base["source"] = {"path": "a/b", "format": "csv", "key": ["id"]}
    kinds_refused = 0
    for value in SAMPLES:
        blocks = copy.deepcopy(base)
        blocks.setdefault(section, {})[key] = value
        if name == "source.key_columns":
            blocks["source"]["key"] = "auto"
        try:
            parse_config(blocks)
        except ConfigError:
            kinds_refused += complaints(blocks, SCHEMA)
        else:
            assert not complaints(blocks, SCHEMA), (name, value)
    assert kinds_refused >= 3, name  # lists of lists, mappings of lists, and texts or numbers
