"""The parts that continuous integration takes in turn are the longer suites, whole."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Suites with parts of their own.
APART = {"faults", "integrations", "clusters"}


def parts_of(suite: str) -> list[str]:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    return [path for paths in re.findall(rf'^    "\d+ {suite} ([^"]*)"$', script, re.MULTILINE) for path in paths.split()]


def test_every_file_of_tests_is_in_one_part() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.relative_to(ROOT).parts[1] not in APART]
    found: list[Path] = []
    for pattern in parts_of("slow"):  # which the shell fills in
        for path in ROOT.glob(pattern.rstrip("/")):
            if path.is_dir():
                found += path.rglob("test_*.py")
            elif not pattern.endswith("/"):
                found.append(path)
    assert sorted(found) == sorted(files)


def test_every_fault_check_is_in_a_part() -> None:
    named = parts_of("faults")
    selected = [named[index + 1] for index, word in enumerate(named) if word == "-k"]  # one file is cut by what its tests are called
    assert selected == ["inplace", "target", "settings"]
    paths = {word for word in named if word.startswith("tests/")}
    assert sorted(paths) == sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "faults").glob("test_*.py"))


def test_every_service_is_in_a_part() -> None:
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "clusters").glob("test_*.py"))
    assert sorted(parts_of("clusters")) == sorted(files)


def test_suites_with_packages_of_their_own_are_a_part_each() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for suite in ("integrations", "toolchains"):
        assert len(re.findall(rf'^    "\d+ {suite}"$', script, re.MULTILINE)) == 1
