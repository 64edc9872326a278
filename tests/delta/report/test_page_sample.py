"""The page of real runs: when it is written, whose rows are on it, and that it fails no job."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.report import page_sample
from metaeol_udf.errors import BudgetError, EnvironmentFault
from tests.table_bench import Bench


@pytest.mark.slow
def test_each_run_leaves_a_page_with_its_waves_and_a_map_of_the_table(bench: Bench) -> None:
    bench.write([(n, f"text number {n}") for n in range(12)] + [(12, None)])
    page = bench.folder / "pages" / "page.html"
    own = {"runtime": {"report_page": str(page), "wave_rows": 4}, "target": {"table": str(bench.folder / "vectors")}}
    report = bench.run(**own)
    assert [entry["waves"] for entry in report["wave_log"]] == [1] * report["waves"]
    assert sum(entry["texts"] for entry in report["wave_log"]) == report["unique_texts"] == 12
    assert 0 < sum(entry["tokens"] for entry in report["wave_log"]) <= report["tokens_computed"]
    starts = [entry["started"] for entry in report["wave_log"]]
    assert starts == sorted(starts)
    first = page.read_text()
    assert first.count("<circle") == 12
    assert report["run_id"] in first
    assert "text number" not in first
    assert bench.run(**own)["status"] == "nothing_to_do"
    assert page.read_text() != first
    assert page.read_text().count("<circle") == 12
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


@pytest.mark.slow
def test_a_key_that_is_the_text_is_on_the_page_as_a_digest(bench: Bench) -> None:
    bench.write([(n, f"canary text {n}") for n in range(5)])
    page = bench.folder / "page.html"
    bench.run(source={"key": ["id", "text"]}, runtime={"report_page": str(page)})
    assert "canary" not in page.read_text()
    assert "SHA-256" in page.read_text()


@pytest.mark.slow
def test_the_sample_is_bounded_drawn_from_all_and_the_same_each_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([(n, f"text number {n}") for n in range(90)])
    bench.run()
    monkeypatch.setattr(page_sample, "SAMPLE_ROWS", 20)
    job = Job.prepare(bench.config(), bench.spark)
    drawn = page_sample.draw_sample(job)
    assert 3 <= len(drawn.names) <= 20
    assert drawn.vectors.shape == (len(drawn.names), 32)
    assert (drawn.n_rows_in_table, drawn.is_whole_table) == (90, True)
    assert drawn.names == page_sample.draw_sample(job).names
    stored = bench.rows()
    for name, vector in zip(drawn.names, drawn.vectors, strict=True):
        assert stored[int(name)]["embedding"] == pytest.approx(vector.tolist())


@pytest.mark.slow
def test_a_run_over_its_budget_leaves_a_page_too(bench: Bench) -> None:
    bench.write([(1, None), (2, "a text"), (3, None)])
    page = bench.folder / "page.html"
    with pytest.raises(BudgetError):
        bench.run(runtime={"report_page": str(page), "max_failed_fraction": 0.1})
    assert "Over budget" in page.read_text()
    assert "null_text" in page.read_text()


@pytest.mark.slow
def test_a_page_that_cannot_be_made_is_a_warning_and_the_report_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("a secret text")

    bench.write([(1, "a text")])
    monkeypatch.setattr(page_sample, "render_page", broken)
    with caplog.at_level(logging.WARNING):
        assert bench.run(runtime={"report_page": str(bench.folder / "page.html")})["status"] == "done"
    assert "runtime.report_page: the page could not be written (RuntimeError)" in caplog.text
    assert "a secret text" not in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(page_sample, "draw_sample", broken)
    bench.run(runtime={"report_page": str(bench.folder / "page.html")})
    assert "No map: the vectors could not be read (RuntimeError)." in (bench.folder / "page.html").read_text()


def test_a_folder_that_cannot_be_made_is_found_before_the_run(bench: Bench) -> None:
    bench.write([(1, "a text")])
    blocked = bench.folder / "blocked"
    blocked.write_text("a file")
    with pytest.raises(EnvironmentFault, match=r"runtime\.report_page"):
        bench.run(runtime={"report_page": str(Path(blocked, "page.html"))})
    assert bench.versions() == 1
