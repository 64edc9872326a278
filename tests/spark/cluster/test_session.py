from __future__ import annotations

from pathlib import Path

import pytest

from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster.session import root_cause
from metaeol_udf.spark.cluster.startup import check_java


def _fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return folder


@pytest.mark.parametrize(("version", "shown"), [("11.0.2", "version 11"), ("1.8.0_402", "version 8")])
def test_an_old_java_is_named_with_its_version(version: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_fake_java(tmp_path, version)))
    with pytest.raises(EnvironmentFault, match=shown):
        check_java()


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_java_17_and_newer_pass(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_fake_java(tmp_path, version)))
    check_java()


def test_a_missing_java_comes_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="no java is on the PATH: install a JDK 17"):
        check_java()


def test_a_java_home_without_java_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFault, match="from JAVA_HOME"):
        check_java()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("", "ValueError"),
        ("no such master", "no such master"),
        (
            "An error occurred while calling None.x.\n: SparkException: no scheduler\n\tat A.b(A:1)\nCaused by: no class\n\t... 3 more",
            "no class",
        ),
        ("An error occurred while calling o1.x.\n: SparkException: no scheduler\n\tat A.b(A:1)", "SparkException: no scheduler"),
    ],
)
def test_why_spark_does_not_start_is_told_by_the_last_cause(said: str, cause: str) -> None:
    assert root_cause(ValueError(said)) == cause
