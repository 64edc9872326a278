"""What a log, a notebook and a watcher of one's own see of a run, without Spark."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metaeol_udf.delta.base import progress as module
from metaeol_udf.delta.base.progress import PHASE_WORDS, LineProgress, default_progress, showing
from metaeol_udf.delta.pipeline import PHASES
from metaeol_udf.terminal import waiting


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
    assert set(PHASES) - set(PHASE_WORDS) == {"embed", "journal", "report"}  # the bar shows the first two, the last is short
    assert set(PHASE_WORDS) <= set(PHASES)


def test_a_log_has_a_line_a_phase_with_the_table_and_the_time_left(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    progress = LineProgress("tickets embedding, run 7")
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
    assert shown == ["tickets: finding the rows that need work", "tickets: embedding 2 texts"]


def test_waiting_prints_nothing_where_there_is_no_terminal(capfd: pytest.CaptureFixture[Any]) -> None:
    with waiting("starting Spark"), waiting("searching"):
        pass
    assert capfd.readouterr() == ("", "")
