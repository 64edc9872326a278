"""The table of services says «passed» of a test that ran to its end, and of no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clusters.tested_table import BEGIN, END, Recorder

OLD = "| S3 by moto (3.4) | the job runs | passed | 116 |"


def report(name: str, when: Any, outcome: Any, longrepr: Any = None) -> pytest.TestReport:
    return pytest.TestReport(f"tests/clusters/test_s3.py::{name}", ("", 0, ""), {}, outcome, longrepr, when, duration=2.0)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "tested.md"
    page.write_text(f"before\n{BEGIN}\n{OLD}\n{END}\nafter\n")
    return page


def lines_after(page: Path, *reports: pytest.TestReport) -> list[str]:
    recorder = Recorder(str(page))
    items = [SimpleNamespace(nodeid=each.nodeid, module=SimpleNamespace(SERVICE="S3 by moto (3.5)")) for each in reports]
    recorder.pytest_collection_finish(SimpleNamespace(items=items))  # type: ignore[arg-type]
    for each in reports:
        recorder.pytest_runtest_logreport(each)
    recorder.pytest_sessionfinish()
    return [line for line in page.read_text().splitlines() if line.startswith("| S3")]


def test_a_test_that_a_broken_off_run_only_set_up_keeps_its_line(page: Path) -> None:
    assert lines_after(page, report("test_the_job_runs", "setup", "passed")) == [OLD]


def test_the_seconds_are_those_of_set_up_and_test(page: Path) -> None:
    reports = [report("test_the_job_runs", "setup", "passed"), report("test_the_job_runs", "call", "passed")]
    assert lines_after(page, *reports) == ["| S3 by moto (3.5) | the job runs | passed | 4 |"]
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_a_failure_and_a_skip_are_told(page: Path) -> None:
    skipped = report("test_a_stream", "setup", "skipped", ("file", 1, "Skipped: no JARs"))
    failed = [report("test_the_job_runs", "call", "passed"), report("test_the_job_runs", "teardown", "failed", "a server went on")]
    assert lines_after(page, skipped, *failed) == [
        "| S3 by moto (3.5) | a stream | skipped: no JARs | 2 |",
        "| S3 by moto (3.5) | the job runs | **FAILED** | 4 |",
    ]
