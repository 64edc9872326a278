from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots
from benchmarks.publish import PAGE, draw_figures, put_between_markers, sections
from benchmarks.results import command_line, markdown_table, read_results, significant, write_results

ROOT = Path(__file__).resolve().parents[2]

ENCODE = [
    {"contender": "the loop", "templates": "metaeol-separate", "texts_per_second": 0.5, "ratio": 1.0, "ratio_min": 1.0, "ratio_max": 1.0},
    {
        "contender": "this engine, bf16", "templates": "metaeol-separate", "texts_per_second": 9.0, "ratio": 18.0, "ratio_min": 17.5,
        "ratio_max": 19.0, "tokens_per_text": 141.0, "share_of_gemm_rate": 0.8, "worst_cosine": 0.9999,
    },
]  # fmt: skip
SCALING = [
    *({"kind": "length", "templates": t, "tokens": n, "tokens_computed": n * k, "ms_per_text": n * k / 2} for n in (8, 64)
      for t, k in (("metaeol-separate", 8), ("metaeol", 4), ("metaeol-fast", 1))),
    *({"kind": "templates", "templates": t, "n_templates": n, "ms_per_text": 10.0 * n} for n in (1, 8)
      for t in ("metaeol-separate", "metaeol", "metaeol-fast")),
    *({"kind": "rows", "rows": n, "seconds": n / 10, "rows_factor": n / 10, "time_factor": n / 10} for n in (10, 33, 100)),
    {"kind": "long", "ordinary_texts": 10, "added": "nothing", "seconds": 1.0, "extra_seconds": 0.0},
    {"kind": "partitions", "partitions": 1, "rows": 100, "seconds": 9.0},
    {"kind": "partitions", "partitions": 8, "rows": 100, "seconds": 5.0},
    {"kind": "partitions", "partitions": 8, "rows": 101, "seconds": 5.2, "with_long_text": True},
]  # fmt: skip
JOB = [
    {"kind": "rate", "slots": 1, "threads_each": 2, "rows": "64 and 128", "share": 0.97, "share_min": 0.96, "share_max": 0.98},
    {"kind": "cold", "rows": 300, "job_seconds": 60.0, "encoder_seconds": 40.0},
]


@pytest.fixture
def results(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for name, rows in {"short": ENCODE, "scaling": SCALING, "job": JOB}.items():
        write_results(tmp_path / f"{name}.json", rows, ["A note"], texts_from=name)
        found[name] = read_results(tmp_path / f"{name}.json")
    return found


def test_results_say_where_when_and_how(results: dict[str, dict[str, Any]]) -> None:
    short = results["short"]
    assert {"command", "date", "commit", "machine", "notes", "rows", "texts_from"} == set(short)
    assert short["rows"] == ENCODE
    assert "CPUs" in short["machine"]
    assert str(Path.home()) not in json.dumps(short)


def test_the_command_hides_paths_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--json", "/tmp/a.json", "--model", "/opt/model", "--rounds", "2"])
    assert command_line().endswith(" --model PATH --rounds 2")


def test_a_table_holds_the_rows_with_their_spread_and_the_notes(results: dict[str, dict[str, Any]]) -> None:
    section = sections(results)["short"]
    assert "| this engine, bf16 | metaeol-separate | 9.0 | 18.0 | 17.5 to 19 | 141.0 | 0.8 | 0.9999 |" in section
    assert "A note." in section


def test_the_page_has_a_place_for_every_table(results: dict[str, dict[str, Any]]) -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    found = sections(results | dict.fromkeys(("12", "30", "100", "500", "mixed"), results["short"]))
    assert len(found) == 6 + 5 + 2
    changed = put_between_markers(page, found)
    assert all(f"<!-- begin {name} -->\n{section}\n<!-- end {name} -->" in changed for name, section in found.items())
    assert put_between_markers(changed, found) == changed


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs `<!-- begin short -->`"):
        put_between_markers("a page", {"short": "a table"})


def test_figures_are_drawn_and_small(results: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = draw_figures(results, tmp_path / "figures")
    assert [path.name for path in drawn] == ["length.svg", "templates.svg", "partitions.svg", "gemm-share.svg"]
    for path in drawn:
        assert path.read_text(encoding="utf-8").startswith("<?xml")
        assert path.stat().st_size < 100_000


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match="pip install matplotlib"):
        plots.import_pyplot()


def test_cells_are_plain() -> None:
    assert markdown_table([{"a": 1234, "b": None}, {"b": 0.5}]).splitlines()[2:] == ["| 1,234 |  |", "|  | 0.5 |"]
    assert significant(0.123456) == 0.123


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.encode", "benchmarks.publish"])
def test_every_benchmark_says_how_it_is_run(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"python -m {module} " in done.stdout
