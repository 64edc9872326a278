"""The table of services in docs/platforms/tested.md, as a run of these tests finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

BEGIN, END = "<!-- made by make test-clusters -->", "<!-- end -->"


class Recorder:
    """A plugin that notes what became of each test of a module that names its `SERVICE`."""

    def __init__(self, page: str | None) -> None:
        """Write into a page at the end; None writes nothing."""
        self._page = None if page is None else Path(page)
        self._services: dict[str, str] = {}  # by the test's id without its parameters
        self._results: dict[str, str] = {}  # of tests that came to an end
        self._seconds: dict[str, float] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which service each test needs."""
        for item in session.items:
            service = getattr(getattr(item, "module", None), "SERVICE", None)
            if service is not None:
                self._services[item.nodeid] = service

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note result and seconds; what the services took to start counts for the first test that needed them."""
        if report.nodeid not in self._services:
            return
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.skipped and isinstance(report.longrepr, tuple):
            self._results[report.nodeid] = f"skipped: {str(report.longrepr[2]).removeprefix('Skipped: ')}"
        elif report.failed:
            self._results[report.nodeid] = "**FAILED**"
        elif report.when == "call":
            self._results[report.nodeid] = "passed"

    def pytest_sessionfinish(self) -> None:
        """Write the table between the marks of the page; lines of tests that this run left out stay."""
        if self._page is None:
            return
        before, _, rest = self._page.read_text(encoding="utf-8").partition(BEGIN)
        old, _, after = rest.partition(END)
        lines = {_key(line): line for line in old.splitlines() if line.startswith("| ") and not line.startswith(("| service", "| ---"))}
        for test, result in self._results.items():
            name = test.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            line = f"| {self._services[test]} | {name} | {result} | {self._seconds[test]:.0f} |"
            lines[_key(line)] = line
        table = ["| service | what was seen | result | seconds |", "| --- | --- | --- | --- |", *(lines[key] for key in sorted(lines))]
        self._page.write_text("\n".join([before + BEGIN, *table, END]) + after, encoding="utf-8")


def _key(line: str) -> tuple[str, str]:
    """What a line is about: the service without its version, and the test."""
    cells = [cell.strip() for cell in line.split("|")]
    return cells[1].partition(" (")[0], cells[2]
