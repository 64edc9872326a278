"""The page from reports and vectors that the test makes up: what it says, what it escapes, and its arithmetic."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from metaeol_udf import cli
from metaeol_udf.delta.base.run_report import MOST_WAVES, Report, shortened
from metaeol_udf.errors import EnvironmentFault, InputError
from metaeol_udf.formatting import format_duration, format_number, format_share
from metaeol_udf.report_page import VectorSample, page_view, read_report, render_page, write_page
from metaeol_udf.report_page.report_fields import FIELDS, WAVE, find_wrong_field
from metaeol_udf.report_page.vector_map import map_vectors

NASTY = "<script>alert('x')</script>\"&</title>"


def a_report(**changed: Any) -> dict[str, Any]:
    report = Report(
        "20261122T101112-0a1b2c3d", "f00dfeedf00dfeed", "done", rows_selected=100, rows_embedded=60, rows_skipped=38, rows_failed=2
    )
    report.failures = {"null_text": 2}
    report.tokens_computed, report.tokens_saved, report.unique_texts = 300, 700, 60
    report.seconds = {"select": 1.5, "embed": 30.0, "total": 40.0}
    report.delta_versions = {"source": 3, "target": 7}
    report.log_wave(1000.0, 10.0, 40, 200, 0)
    report.log_wave(1010.0, 20.0, 20, 100, 2)
    return report.as_dict() | changed


def a_sample(names: list[str] | None = None, n: int = 40, dim: int = 8) -> VectorSample:
    vectors = np.random.default_rng(3).normal(size=(n, dim)).astype(np.float32)
    return VectorSample(names or [f"key {i}" for i in range(n)], vectors, 1234, True)


class Parsed(HTMLParser):
    """Tags with their attributes, what text there is outside scripts and styles, and the script elements' contents."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_says_what_the_report_says() -> None:
    page = Parsed(render_page(a_report(), "main.raw.reviews: embedding", {"embedding": {"layer": 28, "normalize": False}}, a_sample()))
    for words in (
        "2026-11-22 10:11:12 UTC", "main.raw.reviews: embedding", "60 of 100 selected", "70.0 % 700 of 1,000", "embedded 60",
        "up to date 38", "failed 2", "null_text the cell is NULL", "f00dfeedf00dfeed", "embedding.layer 28", "40 of 1,234 rows",
    ):  # fmt: skip
        assert words in page.text, words


def test_nothing_is_fetched_and_no_script_but_the_pages_own_may_run() -> None:
    source = render_page(a_report(), "t", {}, a_sample())
    page = Parsed(source)
    assert not [attrs for _, attrs in page.tags if any(name in attrs for name in ("src", "href", "srcset", "action", "data"))]
    assert "url(" not in source
    assert "@import" not in source
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src 'sha256-" in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_names_and_settings_cannot_leave_their_place() -> None:
    report = a_report(failures={NASTY: 2}, quality={"reasons": [NASTY]}, migration={"from": [NASTY]}, status=NASTY, fingerprint=NASTY)
    sample = a_sample([NASTY] * 40)
    page = Parsed(render_page(report, NASTY, {NASTY: {NASTY: NASTY}}, sample))
    plain = Parsed(render_page(a_report(quality={"a": 1}, migration={"a": 1}), "t", {"a": {"b": 1}}, a_sample()))
    assert sorted({tag for tag, _ in page.tags}) == sorted({tag for tag, _ in plain.tags})
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert json.loads(page.scripts[0])["names"][0] == NASTY
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_every_picture_has_a_title_and_a_description() -> None:
    page = Parsed(render_page(a_report(), "t", None, a_sample()))
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    ids = {attrs.get("id") for tag, attrs in page.tags if tag in ("title", "desc")}
    assert len(pictures) == 3
    for attrs in pictures:
        named = (attrs["aria-labelledby"] or "").split()
        assert len(named) == 2
        assert set(named) <= ids


@pytest.mark.parametrize("status", [*page_view.STATUS, "new"])
def test_every_end_of_a_run_makes_a_page(status: str) -> None:
    report = Report("not-a-time", "f", status).as_dict()
    page = Parsed(render_page(report, "t", why_no_map="No map: nothing was published."))
    assert page_view.STATUS.get(status, ("", status, ""))[1] in page.text
    assert "No map: nothing was published." in page.text
    assert "No row failed in this run." in page.text


def test_the_report_of_an_older_release_makes_a_page() -> None:
    assert "Done" in render_page({"run_id": "a", "fingerprint": "b", "status": "done"}, "t")


def test_a_stopped_run_shows_what_waits() -> None:
    rows = page_view.row_parts(a_report(rows_embedded=10, rows_skipped=5, rows_failed=0))
    assert [(part["words"], part["value"]) for part in rows] == [
        ("embedded", "10"),
        ("up to date", "5"),
        ("failed", "0"),
        ("not published", "85"),
    ]
    assert sum(part["share"] for part in rows) == pytest.approx(100)


def test_rates_are_texts_and_tokens_over_each_waves_own_time() -> None:
    rates = page_view.rates(a_report())
    assert rates is not None
    texts, tokens = rates["charts"]
    assert (texts["mean"], texts["least"], texts["most"]) == ("2", "1", "4")
    assert (tokens["mean"], tokens["most"]) == ("10", "20")
    assert [(bar["x"], bar["width"], bar["height"]) for bar in texts["bars"]] == [(0, 33.333, 100), (33.333, 66.667, 25)]
    assert rates["times"] == ["0 s", "7.5 s", "15 s", "22 s", "30 s"]
    assert page_view.rates(a_report(wave_log=[])) is None


def test_a_long_run_is_told_in_a_bounded_number_of_entries() -> None:
    report = Report("r", "f")
    for n in range(3 * MOST_WAVES):
        report.log_wave(float(n), 1.0, 10, 100, n % 2)
    assert len(report.wave_log) <= MOST_WAVES
    total = {name: sum(entry[name] for entry in report.wave_log) for name in ("waves", "seconds", "texts", "tokens", "failed")}
    n = 3 * MOST_WAVES
    assert total == {"waves": n, "seconds": n, "texts": 10 * n, "tokens": 100 * n, "failed": n // 2}
    starts = [entry["started"] for entry in report.wave_log]
    assert starts == sorted(starts)
    assert shortened(report.wave_log) == report.wave_log


def test_parts_of_a_stream_add_their_waves() -> None:
    whole, part = Report("r", "f"), Report("s", "f")
    part.log_wave(5.0, 1.0, 2, 3, 0)
    whole.add(part)
    whole.add(part)
    assert [entry["texts"] for entry in whole.wave_log] == [2, 2]


def test_figures_are_short_and_true() -> None:
    assert [format_duration(s) for s in (0, 0.44, 77.3, 725, 12_000)] == ["0 s", "0.4 s", "77 s", "12 min 5 s", "3 h 20 min"]
    assert [format_number(n) for n in (12_345, 7.53, 1234.5, 3.0)] == ["12,345", "7.53", "1,234", "3"]
    assert [format_share(*p) for p in ((0, 0), (1, 10_000), (9_999, 10_000), (1, 3), (5, 5))] == [
        "0 %", "under 0.1 %", "over 99.9 %", "33.3 %", "100.0 %",
    ]  # fmt: skip


def test_the_map_keeps_the_distances_of_vectors_on_a_plane() -> None:
    """Vectors that differ in two directions alone, around a far common one, lie on the map as they lie in space."""
    draw = np.random.default_rng(1)
    plane = draw.normal(size=(50, 2)) * [0.03, 0.01]
    basis = np.linalg.qr(draw.normal(size=(12, 3)))[0].T
    vectors = basis[0] + plane @ basis[1:]
    found = map_vectors(vectors.astype(np.float32))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    on_map = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    np.testing.assert_allclose(on_map, apart, atol=2e-3)
    assert sum(found.explained) == pytest.approx(1.0, abs=0.01)


def test_neighbours_and_pairs_are_those_of_a_loop() -> None:
    vectors = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    found = map_vectors(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = sorted(((float(unit[a] @ unit[b]), a, b) for a in range(30) for b in range(a + 1, 30)), reverse=True)
    assert [(a, b) for a, b, _ in found.pairs[:8]] == [(a, b) for _, a, b in pairs[:8]]
    assert found.mean_cosine == pytest.approx(np.mean([cosine for cosine, _, _ in pairs]), abs=1e-6)
    for row in range(30):
        others = sorted((b for b in range(30) if b != row), key=lambda b, row=row: -float(unit[row] @ unit[b]))  # type: ignore[misc]
        assert found.neighbours[row].tolist() == others[:5]


def test_pairs_are_of_different_texts_and_stand_once() -> None:
    """Rows 0, 1 and 2 have one text, rows 3 and 4 another: of six pairs between the two one is listed, of the four inside none."""
    vectors = np.array([[1, 0], [1, 0], [1, 0], [1, 0.1], [1, 0.1], [0, 1]], np.float32)
    found = map_vectors(vectors, ["a", "a", "a", "b", "b", None])
    assert [pair[:2] for pair in found.pairs] == [(0, 3), (3, 5), (0, 5)]
    sample = VectorSample([f"key {n}" for n in range(6)], vectors, 6, True, ["secret-a"] * 3 + ["secret-b"] * 2 + [None])
    page = render_page(a_report(), "t", None, sample)
    assert "Of different texts: 3 of these rows have the text of another one" in page
    assert "secret" not in page


@pytest.mark.parametrize("vectors", [np.ones((5, 4)), np.zeros((4, 3)), np.arange(6.0).reshape(6, 1), np.eye(3)])
def test_odd_vectors_make_a_map_too(vectors: np.ndarray) -> None:
    sample = VectorSample([str(n) for n in range(len(vectors))], vectors.astype(np.float32), len(vectors), True)
    page = Parsed(render_page(a_report(), "t", None, sample))
    circles = [attrs for tag, attrs in page.tags if tag == "circle"]
    assert len(circles) == len(vectors)
    assert all(0 <= float(attrs["cx"] or "nan") <= 1000 for attrs in circles)


def test_two_rows_make_no_map() -> None:
    assert "Fewer than three rows have a vector." in render_page(a_report(), "t", None, a_sample(["a", "b"], n=2))


def test_a_page_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page("old", page)
    write_page("new \udc80", page)
    assert page.read_text() == "new ?"
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write_page("x", page / "under a file.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write_page("x", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "page.html"]


def test_the_command_makes_a_page_from_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(json.dumps(a_report()))
    assert cli.run(["report", str(tmp_path / "report.json"), "--out", str(tmp_path / "page.html"), "--title", "nightly"]) == 0
    assert "nightly" in Parsed((tmp_path / "page.html").read_text()).text
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot read"),
        ("[]", "no run report: it holds list"),
        ('{"run_id": "a"}', "no run report: it has no fingerprint"),
        ('{"run_id": "a", "fingerprint": 3}', "no run report: fingerprint must be a text"),
    ],
)
def test_what_is_no_report_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("executors", None, "executors must be an integer"),
        ("tokens_computed", None, "tokens_computed must be an integer"),
        ("rows_selected", 1e400, "rows_selected must be an integer"),
        ("rows_selected", 10**30, "rows_selected must be an integer"),
        ("waves", True, "waves must be an integer"),
        ("seconds", None, "seconds must be an object whose values are each a number"),
        ("seconds", {"embed": float("nan")}, "seconds must be an object"),
        ("seconds", {"embed": "long"}, "seconds must be an object"),
        ("failures", None, "failures must be an object whose values are each an integer"),
        ("failures", {"oom": 1.5}, "failures must be an object"),
        ("quality", "x", "quality must be an object or null"),
        ("migration", [], "migration must be an object or null"),
        ("looked_at", 5, "looked_at must be a text or null"),
        ("path_reasons", [1], "path_reasons must be a list whose entries are each a text"),
        ("wave_log", {"a": {}}, "wave_log must be a list whose entries are each an object whose values are each a number"),
        ("wave_log", [{"waves": 1}], "entry 0 of wave_log needs started, a number from 0"),
        ("wave_log", [dict.fromkeys(("waves", "started", "seconds", "texts", "tokens", "failed"), -1)], "entry 0 of wave_log needs waves"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field: str, value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(a_report(**{field: value})))
    with pytest.raises(InputError) as caught:
        read_report(path)
    assert str(caught.value).startswith(f"{path} is no run report: {words}")


def test_the_reader_knows_the_type_of_every_field_of_a_report() -> None:
    assert get_type_hints(Report) == FIELDS
    assert set(a_report()["wave_log"][0]) == set(WAVE)
    assert find_wrong_field(a_report()) is None
    assert find_wrong_field(a_report(of_a_newer_release="x")) is None


@pytest.mark.parametrize("run_id", ["99999999T999999-a", "٢٠٢٦١١٢٢T101112-a", "x"])
def test_an_id_that_tells_no_time_makes_a_page(run_id: str) -> None:
    assert page_view.run_time(run_id) == ""
    assert render_page(a_report(run_id=run_id), "t")


@pytest.mark.parametrize("wave", [{"seconds": 1e-300}, {"texts": 1e-320, "tokens": 0}, {"seconds": 9e18, "started": 9e18}])
def test_a_wave_of_odd_numbers_makes_a_page(wave: dict[str, float]) -> None:
    report = a_report()
    report["wave_log"] = [entry | wave for entry in report["wave_log"]]
    assert find_wrong_field(report) is None
    assert "Rates over time" in render_page(report, "t")
