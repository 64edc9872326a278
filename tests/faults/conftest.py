"""A session in which a task may fail, tables with a job on them, and the table of outcomes in docs/reliability.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.spec import EmbeddingSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one
from bench import Bench  # noqa: E402
from catalogue import ELSEWHERE, FAULTS  # noqa: E402

from tests.sessions import run_session  # noqa: E402

BEGIN, END = "<!-- made by make test-faults -->", "<!-- end -->"

_outcomes: dict[str, list[tuple[str, str]]] = {}


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Like that of the other tests, but a task is tried three times: plain `local[2]` gives up at the first failure."""
    at_once = {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}  # tests VACUUM at once
    yield from run_session(tmp_path_factory.mktemp("warehouse"), master="local[2,3]", **at_once)


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, encoder: MetaEOLEncoder) -> Iterator[Bench]:
    yield Bench(spark, tmp_path, spec, encoder=encoder)
    spark.catalog.clearCache()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-table", metavar="PATH", help="write the table of faults and their outcomes into this page")


def pytest_configure(config: pytest.Config) -> None:
    """With the whole folder run the checks that stand elsewhere."""
    config.pluginmanager.register(_Recorder())
    if any(Path(argument).resolve() == Path(__file__).parent for argument in config.args):
        config.option.markexpr = ""  # some of these are slow
        config.args += [str(ROOT / test) for tests in ELSEWHERE.values() for test in tests if (ROOT / test.partition("::")[0]).is_file()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time for jobs that are killed and begun again, on a machine that may be busy."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(3600))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only where they are asked for: `make test-faults`. They take too long for every test run."""
    return None if any("faults" in argument for argument in config.args) else True


class _Recorder:
    """A plugin of its own, for hooks of this file see the tests of this folder only."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            if report.when == "teardown" and report.outcome == "passed":
                return
            why = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
            test = report.nodeid.partition("[")[0]
            _outcomes.setdefault(test, []).append((report.outcome, str(why).removeprefix("Skipped: ")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--reliability-table")
    if path is None:
        return
    by_fault = {fault: [test for test in tests if test in _outcomes] for fault, tests in ELSEWHERE.items()}
    for test in _outcomes:
        number = re.search(r"::test_fault_(\d+)_", test)
        if number:
            by_fault.setdefault(int(number.group(1)), []).append(test)
    page = Path(path)
    kept = _rows(page)  # of faults that this run did not look at
    lines = ["| # | fault | outcome it must have | test | result |", "| --- | --- | --- | --- | --- |"]
    for number, (fault, outcome) in FAULTS.items():
        tests = by_fault.get(number, [])
        names = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests)
        found = f"| {number} | {fault} | {outcome} | {names} | {_result(tests)} |"
        lines.append(found if tests else kept.get(str(number), found))
    lines += ["", "| more | result |", "| --- | --- |"]
    counted = {test for tests in by_fault.values() for test in tests}
    more = {f"`{test.removeprefix('tests/')}`": test for test in _outcomes if test not in counted}
    others = {name: kept[name] for name in kept if name.startswith("`")}
    others |= {name: f"| {name} | {_result([test])} |" for name, test in more.items()}
    lines += [others[name] for name in sorted(others)]
    _replace_between_marks(page, lines)


def _rows(page: Path) -> dict[str, str]:
    """The page's lines by their first cell."""
    lines = page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}


def _result(tests: list[str]) -> str:
    seen = [outcome for test in tests for outcome in _outcomes[test]]
    if not seen:
        return "not run"
    failed = sum(outcome == "failed" for outcome, _ in seen)
    if failed:
        return f"**FAILED** ({failed} of {len(seen)})"
    skipped = sorted({why for outcome, why in seen if outcome == "skipped"})
    passed = sum(outcome == "passed" for outcome, _ in seen)
    parts = [f"held ({passed} checks)" if passed > 1 else "held"] if passed else []
    return "; ".join(parts + [f"skipped: {why}" for why in skipped])


def _replace_between_marks(path: Path, lines: list[str]) -> None:
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text("\n".join([before + BEGIN, *lines, END]) + after, encoding="utf-8")
