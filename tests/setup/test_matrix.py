from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests import matrix

ROOT = Path(__file__).resolve().parents[2]


def test_a_python_that_is_not_there_is_a_skipped_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.find_python("3.99") is None
    assert matrix.main(["--python", "3.99", "--spark", "4.2"]) == 0
    assert "skipped: no python3.99" in capsys.readouterr().out


def test_an_unknown_spark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matrix.main(["--spark", "3.5"])
    assert "known: 4.0, 4.1, 4.2" in capsys.readouterr().err


def test_this_python_is_recognised() -> None:
    assert matrix.version_of(Path(sys.executable)) == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert matrix.version_of(Path("/bin/false")) is None


def test_each_delta_spark_admits_its_pyspark_and_is_the_locked_one() -> None:
    (wanted,) = (Requirement(line) for line in metadata.requires("delta-spark") or () if Requirement(line).name == "pyspark")
    for line, (pyspark, delta) in matrix.SPARKS.items():
        assert pyspark.startswith(f"{line}.")
        assert delta == metadata.version("delta-spark")
        assert wanted.specifier.contains(pyspark)


def test_the_pythons_are_those_that_the_package_admits() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    admitted = SpecifierSet(text.partition('requires-python = "')[2].partition('"')[0])
    assert all(admitted.contains(f"{line}.0") for line in matrix.PYTHONS)
    assert not admitted.contains("3.9")


def test_every_test_of_the_core_exists() -> None:
    for name in matrix.CORE:
        path, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")
