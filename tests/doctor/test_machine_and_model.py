"""Machines and model folders that are wrong, each really set up."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from metaeol_udf.cli.views import show_finding
from metaeol_udf.config import parse_config
from metaeol_udf.doctor import Finding, Level
from metaeol_udf.doctor.examine import make_plan
from metaeol_udf.doctor.executors import judge_workers
from metaeol_udf.doctor.machine import check_disk, check_java_version, check_versions, check_worker_python
from metaeol_udf.doctor.model import check_dtype, check_model, check_runner, check_templates, find_model
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster.preflight import WorkerProbe
from metaeol_udf.spec import EmbeddingSpec


def fake_program(path: Path, output: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{output}'\necho '{output}' >&2\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", [None, 'openjdk version "11.0.2"'])
def test_a_missing_or_old_java_is_found(version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version is not None:
        fake_program(tmp_path / "bin" / "java", version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    finding = check_java_version()
    assert (finding.level, finding.exit_code) == (Level.PROBLEM, 5)
    assert finding.setting.startswith("JAVA_HOME=")


@pytest.mark.parametrize(("shown", "word"), [("3.8", "Python 3.8"), (None, "does not run")])
def test_another_python_for_workers_is_found(shown: str | None, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3.8"
    if shown is not None:
        fake_program(python, shown)
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))
    finding = check_worker_python(is_local=True)
    assert (finding.level, finding.exit_code, finding.setting) == (Level.PROBLEM, 5, f"PYSPARK_PYTHON={sys.executable}")
    assert word in finding.found
    assert check_worker_python(is_local=False).level is (Level.PROBLEM if shown else Level.OK)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    assert check_worker_python(is_local=True).level is Level.OK


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """An installed distribution's metadata, as importlib finds it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("spark", "delta", "rule", "setting"),
    [
        ("4.2.0", "4.4.1", "pyspark<=4.2.0,>=4.0.1", "pip install delta-spark==4.4.0"),
        ("4.3.0", "4.4.0", "pyspark<=4.2.0,>=4.0.1", "pip install 'pyspark<=4.2.0,>=4.0.1'"),
        ("4.2.0", "4.4.0", "pyspark<=4.2.0,>=4.0.1", ""),
    ],
)
def test_releases_that_do_not_fit_together_are_found(
    spark: str, delta: str, rule: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "pyspark", spark)
    install(tmp_path, "delta-spark", delta, rule)
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_versions()
    assert (finding.setting, finding.exit_code) == (setting, 5 if setting else 0)


def test_a_table_larger_than_the_disk_is_found(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = parse_config({"source": {"table": "t", "key": ["id"]}, "embedding": {"model": str(tiny_model_dir)}})
    plan = make_plan(config, {})
    finding = check_disk(plan, tmp_path, n_rows=10**13, dim=4096, rewritten_bytes=0)
    assert (finding.level, finding.exit_code, finding.setting[:13]) == (Level.PROBLEM, 5, "target.table=")
    assert check_disk(plan, tmp_path, n_rows=10, dim=32, rewritten_bytes=0).level is Level.OK


@pytest.mark.parametrize(
    ("failed", "setting"),
    [
        ("Python", "spark.pyspark.python"),
        ("metaeol-udf", "spark.submit.pyFiles"),
        ("torch", "spark.pyspark.python"),
        ("model", "embedding.model"),
        ("device", "runtime.device"),
    ],
)
def test_workers_that_cannot_do_the_work_are_found(failed: str, setting: str) -> None:
    good = WorkerProbe("a", error=None, failed=None)
    assert judge_workers([good]).level is Level.OK
    finding = judge_workers([good, WorkerProbe("b", error=EnvironmentFault("wrong on b"), failed=failed)])
    assert (finding.exit_code, finding.found, finding.setting.partition("=")[0]) == (5, "wrong on b", setting)


def test_without_spark_the_finding_to_fix_first_is_named() -> None:
    finding = find_model(EmbeddingSpec(model="hdfs://host/models/small"))
    assert isinstance(finding, Finding)
    assert finding.advice == finding.setting == "fix the java or session finding first"
    console = Console(file=io.StringIO(), width=200)
    show_finding(console, finding)
    assert console.file.getvalue().splitlines()[1].strip() == finding.advice  # type: ignore[attr-defined]


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of a good model, to damage."""
    from metaeol_udf.encoder.checkpoint.manifest import write_manifest

    shutil.copytree(tiny_model_dir, tmp_path / "model")
    write_manifest(tmp_path / "model", source="random", dtype="float32")
    return tmp_path / "model"


def of_model(folder: Path, **settings: object) -> dict[str, Finding]:
    config = parse_config({"source": {"table": "t", "key": ["id"]}, "embedding": {"model": str(folder), **settings}})
    return {finding.check: finding for finding in check_model(make_plan(config, {}))}


def test_a_good_model_has_no_finding(folder: Path) -> None:
    assert [f for f in of_model(folder).values() if f.level is not Level.OK] == []


def test_a_model_that_is_not_there_is_found(tmp_path: Path) -> None:
    found = of_model(tmp_path / "nowhere")
    assert (found["model"].exit_code, found["model"].setting[:16]) == (2, "embedding.model=")
    assert list(found) == ["model"]


def test_damaged_weights_are_found(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged, word in ((whole[:-100], "truncated"), (whole[:-1] + bytes([whole[-1] ^ 1]), "altered")):
        weights.write_bytes(damaged)
        finding = of_model(folder)["model files"]
        assert (finding.exit_code, word in finding.found) == (5, True), finding
    weights.rename(folder / "pytorch_model.bin")
    finding = of_model(folder)["model files"]
    assert finding.exit_code == 5
    assert "pickled" in finding.found


def test_a_model_without_a_manifest_is_warned_of(folder: Path) -> None:
    (folder / "metaeol-manifest.json").unlink()
    assert of_model(folder)["model version"].level is Level.WARNING


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_model_with_code_of_its_own_is_found(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModel": "modeling.Model"}, model_type="brand-new")
    finding = of_model(folder)["model code"]
    assert (finding.level, finding.exit_code) == (Level.PROBLEM, 5)
    edit_config(folder, model_type="llama")
    assert of_model(folder)["model code"].level is Level.OK


@pytest.mark.parametrize(
    ("model_type", "quantization", "level", "words"),
    [
        ("llama", None, Level.OK, "our own decoder"),
        ("qwen3_moe", None, Level.OK, "transformers' own layers"),
        ("jamba", None, Level.WARNING, "whole prompts"),
        ("llama", "int8", Level.OK, "our own decoder"),
        ("qwen3_moe", "int8", Level.OK, "transformers' own layers"),
        ("jamba", "int8", Level.PROBLEM, "architecture 'jamba' runs on whole prompts alone"),
    ],
)
def test_the_runner_that_a_model_will_have_is_named(
    tmp_path: Path, model_type: str, quantization: str | None, level: Level, words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wrapper", "text_config": {"model_type": model_type}}))
    finding = check_runner(EmbeddingSpec(model=str(tmp_path), quantization=quantization), tmp_path)
    assert finding.level is level
    assert words in finding.found


def test_a_layer_a_dimension_or_a_length_outside_the_model_is_found(folder: Path) -> None:
    assert of_model(folder, layer=99)["layer"].exit_code == 2
    assert of_model(folder, truncate_dim=33)["layer"].setting == "embedding.truncate_dim=32"
    finding = of_model(folder, max_tokens=8192)["positions"]
    assert (finding.exit_code, finding.setting.partition("=")[0]) == (2, "embedding.max_tokens")
    assert of_model(folder, long_texts="mean", max_tokens=512)["positions"].found.endswith("longer ones are split into passages of 256")


def test_a_bad_template_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_text("name: mine\ntext_cleanup: none\ntemplates:\n  - {meta_task: topic, prompt: no slot in here}\n")
    for templates in (str(path), str(tmp_path / "nowhere.yaml")):
        finding = check_templates(EmbeddingSpec(model="m", templates=templates))
        assert (finding.level, finding.exit_code, finding.setting) == (Level.PROBLEM, 2, "embedding.templates=metaeol")


@pytest.mark.parametrize(("dtype", "setting"), [("float16", "embedding.dtype=auto"), ("bfloat16", "embedding.dtype=float32")])
def test_a_dtype_that_a_cpu_emulates_is_warned_of(dtype: str, setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    blocks = {
        "source": {"table": "t", "key": ["id"]},
        "embedding": {"model": str(folder), "dtype": dtype},
        "runtime": {"device": "cpu"},
        "spark": {"master": "local[1]"},
    }
    finding = check_dtype(make_plan(parse_config(blocks), {}))
    assert (finding.level, finding.setting) == (Level.WARNING, setting)
