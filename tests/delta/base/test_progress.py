"""What a log, a notebook and a watcher of one's own see of a run, without Spark."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metaeol_udf import terminal
from metaeol_udf.delta.base import progress as module
from metaeol_udf.delta.base.progress import PHASE_WORDS, LineProgress, default_progress, showing, watch_tasks
from metaeol_udf.delta.pipeline import PHASES
from metaeol_udf.spark.worker.task_progress import PROGRESS_FOLDER, count_texts, texts_done
from metaeol_udf.terminal import counting, waiting


class _Clock:
    """Stands in for `time` where the module looks at the clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_every_phase_that_takes_time_has_words() -> None:
    assert set(PHASES) - set(PHASE_WORDS) == {"embed", "journal"}  # the bar shows them
    assert set(PHASE_WORDS) <= set(PHASES)


def test_a_log_has_a_line_a_phase_with_the_table_and_the_time_left(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    progress = LineProgress("tickets embedding, run 7")
    for _ in range(2):  # what goes on after a pause has one line
        with showing(progress, "publish"):
            pass
    with showing(progress, "journal"):
        pass
    progress.start(1_000)
    clock.now += 5
    progress.update(100, "20.0 texts/s")  # too early for a line
    clock.now += 15
    progress.update(200, "10.0 texts/s")
    clock.now += 80
    progress.update(1_000, "10.0 texts/s")
    progress.finish()
    LineProgress().start(1)
    assert caplog.messages == [
        "tickets embedding, run 7: publishing the vectors",
        "tickets embedding, run 7: embedding 1,000 texts",
        "tickets embedding, run 7: 200 of 1,000 texts, 10.0 texts/s, 80 s left",
        "tickets embedding, run 7: 1,000 of 1,000 texts, 10.0 texts/s",
        "embedding 1 text",
    ]


def test_a_watcher_of_ones_own_needs_no_phases() -> None:
    done = []
    with showing(SimpleNamespace(start=None, update=None, finish=None), "publish"):  # type: ignore[arg-type]
        done.append("publish")
    assert done == ["publish"]


def test_a_notebook_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.display = lambda *_, **__: handle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    progress = default_progress("tickets")
    with showing(progress, "snapshot"):
        progress.start(2)
        progress.update(1, "2.0 texts/s")  # the line follows each time, the log every ten seconds
    assert shown[:2] == ["tickets: finding the rows that need work", "tickets: embedding 2 texts"]
    assert re.fullmatch(r"tickets: 1 of 2 texts, 2\.0 texts/s, [\d.]+ s left", shown[2])


def test_a_log_counts_texts_every_ten_seconds_and_says_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = _Clock()
    monkeypatch.setattr(terminal, "time", clock)
    caplog.set_level(logging.INFO, logger=terminal.__name__)
    with waiting("loading the model"):
        pass
    with counting("embedding", 100) as advance:
        for _ in range(4):
            clock.now += 6
            advance(25)
    assert caplog.messages == [
        "loading the model",
        "embedding 100 texts",
        "50 of 100 texts, 4.2 texts/s, 12 s left",
        "100 of 100 texts, 4.2 texts/s",
    ]


def test_a_task_counts_its_texts_in_a_file_and_the_driver_adds_them_up(tmp_path: Path) -> None:
    """An encoder of this process tells of each batch, another one of each chunk. A folder that is gone stops no task."""
    runner = SimpleNamespace(on_texts=None)
    encoded = [SimpleNamespace(errors=[None] * n) for n in (3, 4)]

    def results() -> Iterator[Any]:
        for each in encoded:
            if runner.on_texts is not None:
                for _ in each.errors:
                    runner.on_texts(1.0)
            yield each

    assert list(count_texts(SimpleNamespace(batch_runner=runner), results(), tmp_path / "0")) == encoded  # type: ignore[arg-type]
    assert runner.on_texts is None
    assert list(count_texts(SimpleNamespace(), encoded, tmp_path / "1")) == encoded  # type: ignore[arg-type]
    (tmp_path / "2").touch()  # a file that is being written
    assert texts_done(tmp_path) == 14
    assert list(count_texts(SimpleNamespace(), encoded, tmp_path / "gone" / "0")) == encoded  # type: ignore[arg-type]


class _Context:
    """Stands in for a Spark context whose tasks no tracker knows."""

    def __init__(self, master: str) -> None:
        self.master = master
        self.properties: dict[str, str | None] = {"spark.jobGroup.id": "a stream's"}

    def statusTracker(self) -> SimpleNamespace:
        return SimpleNamespace(getJobIdsForGroup=lambda _: [])

    def setJobGroup(self, group: str, words: str) -> None:
        self.properties |= {"spark.jobGroup.id": group, "spark.job.description": words}

    def getLocalProperty(self, name: str) -> str | None:
        return self.properties.get(name)

    def setLocalProperty(self, name: str, value: str | None) -> None:
        self.properties[name] = value


def test_a_running_wave_shows_the_texts_that_its_tasks_have_counted() -> None:
    context, told, changed = _Context("local[2]"), [], threading.Event()

    def update(done: int, detail: str) -> None:
        told.append((done, detail))
        changed.set()

    spark, progress = SimpleNamespace(sparkContext=context), SimpleNamespace(update=update)
    with watch_tasks(spark, progress, "run-2", 100, 50, 6):  # type: ignore[arg-type]
        folder = Path(context.properties[PROGRESS_FOLDER] or "")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "0").write_text("20")
        assert changed.wait(30)
        changed.clear()
        (folder / "1").write_text("70")  # a task that ran again counts more than there is
        while told[-1][0] < 150:
            assert changed.wait(30)
            changed.clear()
    assert told[0] == (120, "the first texts")
    assert told[-1][1].endswith("texts/s")
    assert not folder.exists()
    assert context.properties == {"spark.jobGroup.id": "a stream's", "spark.job.description": None, PROGRESS_FOLDER: None}
    with watch_tasks(SimpleNamespace(sparkContext=_Context("yarn")), progress, "run-3", 0, 50, 6):  # type: ignore[arg-type]
        assert context.properties[PROGRESS_FOLDER] is None
