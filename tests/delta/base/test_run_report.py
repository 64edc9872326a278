"""Files that a run writes at its end are looked at before it begins; a report adds up what devices did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from metaeol_udf.delta.base.run_report import Report, check_writable
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.errors import EnvironmentFault
from tests.table_bench import TableBench


def test_a_file_that_can_be_written_leaves_nothing_behind_but_its_folder(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "new" / "report.json"), "runtime.report")
    (tmp_path / "old.json").write_text("of an earlier run")
    check_writable(str(tmp_path / "old.json"), "runtime.report")
    check_writable(None, "runtime.report")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old.json"]
    assert (tmp_path / "old.json").read_text() == "of an earlier run"


@pytest.mark.parametrize("path", ["{folder}/taken", "{folder}/file/report.json", "/proc/report.json"])
def test_a_folder_in_its_place_a_file_above_it_and_a_closed_folder_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EnvironmentFault, match=r"runtime\.report: cannot write .*: \w+"):
        check_writable(path.format(folder=tmp_path), "runtime.report")


@pytest.mark.parametrize(("setting", "name"), [("report", "r.json"), ("report_page", "r.html"), ("prometheus", "r.prom")])
def test_a_run_whose_files_cannot_be_written_ends_before_it_begins(bench: TableBench, setting: str, name: str) -> None:
    bench.write([(1, None)])
    (bench.folder / name).mkdir()
    with pytest.raises(EnvironmentFault, match=rf"runtime\.{setting}: cannot write"):
        bench.run(runtime={setting: str(bench.folder / name)})
    assert bench.versions() == 1


def test_a_report_adds_devices_and_waves_up() -> None:
    report, later = Report("run", "spec"), Report("run 2", "spec")
    assert report.device_busy is None
    report.count_work(DeviceWork(3.0, 10.0, 14.0, Counter(graph=3), ["b"]))
    report.count_work(DeviceWork(1.0, 10.0, 14.0, Counter(graph=1, cells=1), ["a"]))
    assert (report.device_s, report.device_span_s, report.device_busy) == (4.0, 8.0, 0.5)
    assert (report.batches_by_path, report.path_reasons) == ({"cells": 1, "graph": 4}, ["a", "b"])
    later.count_work(DeviceWork(4.0, 20.0, 24.0, Counter(compiled=2), []))
    report.add(later)
    assert report.device_busy == round(8 / 12, 3)
    assert report.batches_by_path == {"cells": 1, "compiled": 2, "graph": 4}
