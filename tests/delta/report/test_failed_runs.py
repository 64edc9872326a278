"""A run that does not come to its end says so in its report: an earlier run's must not stand for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.delta import run_embed
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import BudgetError, ConfigError, EnvironmentFault, InputError
from tests.table_bench import Before, Bench


def left(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("command", [run_embed, run_retry, run_stream])
def test_a_run_that_is_refused_before_it_begins(bench: Bench, command: Any) -> None:
    pytest.importorskip("prometheus_client")
    page, metrics = bench.folder / "report.html", bench.folder / "metaeol.prom"
    for path in (bench.folder / "report.json", page, metrics):
        path.write_text('{"status": "done"}')
    settings = {"embedding": {"model": str(bench.folder / "nowhere")}, "runtime": {"report_page": str(page), "prometheus": str(metrics)}}
    with pytest.raises(ConfigError) as caught:
        command(bench.blocks(**settings), bench.spark)
    report = left(bench)
    assert (report["status"], report["error"]) == ("failed", " ".join(str(caught.value).split()))
    assert (report["table"], report["column"], report["fingerprint"], report["rows_embedded"]) == (bench.path, "embedding", "", 0)
    assert report["started"] <= report["ended"]
    assert "nowhere" in page.read_text()
    assert "Failed" in page.read_text()
    assert metrics.read_text().split("metaeol_last_run_success{")[1].split("\n")[0].endswith(" 0.0")


def test_a_run_whose_table_is_wrong(bench: Bench) -> None:
    bench.write([(1, "one"), (1, "two")])
    with pytest.raises(InputError) as caught:
        bench.run()
    assert not (bench.folder / "report.json").exists()  # a refused run writes nothing
    (bench.folder / "report.json").write_text('{"status": "done"}')  # of an earlier run
    with pytest.raises(InputError):
        bench.run()
    report = left(bench)
    assert (report["status"], report["error"]) == ("failed", " ".join(str(caught.value).split()))
    assert len(report["fingerprint"]) > 8


def test_the_message_of_an_error_that_nobody_foresaw_stays_out_of_the_report(bench: Bench) -> None:
    bench.write([(1, "one")])

    def fail() -> None:
        raise RuntimeError("it quotes the text of a row")

    with pytest.raises(RuntimeError):
        bench.run(between=Before("select", fail))
    report = left(bench)
    assert (report["status"], report["error"]) == ("failed", "RuntimeError: the run's log says more")
    assert (report["rows_selected"], report["rows_embedded"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt, "terminated"), (SystemExit, "running")])  # Ctrl-C; as dead as by SIGKILL
def test_a_run_that_is_killed_leaves_no_earlier_report(bench: Bench, end: type[BaseException], status: str) -> None:
    bench.write([(1, "one")])
    done = bench.run()
    bench.write([(2, "two")], mode="append")

    def die() -> None:
        raise end

    with pytest.raises(end):
        bench.run(between=Before("embed", die))
    report = left(bench)
    assert report["status"] == status
    assert report["run_id"] != done["run_id"]


def test_a_report_that_cannot_be_written_hides_no_error(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.write([(1, "one")])
    report = bench.folder / "reports" / "report.json"

    def fail() -> None:
        report.parent.rmdir()
        Path(report.parent).write_text("in the way")
        raise EnvironmentFault("the first error")

    with pytest.raises(EnvironmentFault, match="the first error"):
        bench.run(runtime={"report": str(report)}, between=Before("select", fail))
    assert "the run's report could not be written (" in caplog.text


@pytest.mark.slow
def test_no_column_of_a_stopped_run_is_still_running(bench: Bench) -> None:
    bench.write([(1, "one", "two")], "id long, subject string, body string")
    entries = [{"text": "subject", "column": "s"}, {"text": "body", "column": "b", "normalize": True}]

    def fail() -> None:
        raise BudgetError("too many texts failed")

    with pytest.raises(BudgetError):
        run_embed({**bench.blocks(), "embeddings": entries}, bench.spark, bench.progress, between=Before("embed", fail, at=2))
    report = left(bench)
    assert (report["status"], report["column"]) == ("stopped_over_budget", "s, b")
    assert [(part["status"], part["error"]) for part in report["columns"]] == [
        ("done", None), ("stopped_over_budget", "too many texts failed"),
    ]  # fmt: skip
