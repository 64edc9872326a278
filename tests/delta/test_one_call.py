"""`embed_table`: settings as keywords, over a file or a mapping, and a report that shows itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaeol_udf import embed_table
from metaeol_udf.config import parse_config
from metaeol_udf.delta.one_call import EmbedReport, as_settings
from metaeol_udf.errors import ConfigError
from tests.table_bench import Bench, Silence

JOB = {"source": {"table": "data/t", "key": ["id"]}, "embedding": {"model": "m"}, "runtime": {"wave_rows": 7}}


def test_keywords_are_settings_by_their_name_or_with_their_section(tmp_path: Path) -> None:
    (plain,) = as_settings("data/t", {"key": "id", "source_text": ("a", "b"), "model": Path("models/m"), "where": "x > 1", "wave_rows": 7,
                                   "runtime_device": "cpu", "target_table": Path("data/v"), "spark_conf": {"spark.x": 1}})  # fmt: skip
    assert plain == parse_config({
        "source": {"table": "data/t", "key": ["id"], "text": ["a", "b"], "where": "x > 1"}, "target": {"table": "data/v"},
        "embedding": {"model": "models/m"}, "runtime": {"wave_rows": 7, "device": "cpu"}, "spark": {"conf": {"spark.x": "1"}},
    })  # fmt: skip
    (tmp_path / "job.yaml").write_text("source: {table: data/t, key: [id]}\nembedding: {model: m}\nruntime: {wave_rows: 7}\ntarget:\n")
    for given in (JOB, tmp_path / "job.yaml", str(tmp_path / "job.yaml")):
        assert as_settings(given, {"layer": -2}) == (parse_config({**JOB, "embedding": {"model": "m", "layer": -2}}),)
    assert JOB["embedding"] == {"model": "m"}
    assert as_settings(Path("t"), {"key": "id", "model": "m"})[0].source.table == "./t"
    assert as_settings(None, {"path": "a.csv", "key": "auto", "model": "m", "target_table": "v/t"})[0].source.file_format == "csv"


@pytest.mark.parametrize(
    ("table", "keywords", "words"),
    [
        ("t", {"modell": "m"}, "modell is no setting of embed_table; did you mean 'model'?"),
        ("t", {"table": "v"}, "table is no setting of embed_table"),  # of the source or of the target?
        ("t", {"model": "m"}, "source.key is missing"),
        (7, {}, "table must be the name or path of a table, a YAML file or a mapping of sections, found int"),
        ({"source": "t"}, {"key": "id"}, "source must be a mapping of settings, found str"),
    ],
)
def test_what_is_no_setting_is_refused(table: object, keywords: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_settings(table, keywords)  # type: ignore[arg-type] # as users may call it
    assert words in str(caught.value)


def test_a_report_shows_itself_as_lines_and_as_a_table() -> None:
    report = EmbedReport({"status": "done", "rows_selected": 1200, "rows_embedded": 3, "rows_trimmed": 0, "failures": {"null_text": 2},
                          "seconds": {"total": 1.25}}, "a<b: column x")  # fmt: skip
    assert report["rows_selected"] == 1200
    assert repr(report) == (
        "a<b: column x\n  status         done\n  rows selected  1,200\n  rows embedded  3\n"
        "  why            null_text 2\n  seconds        1.25"
    )
    shown = report._repr_html_()
    assert "<caption>a&lt;b: column x</caption>" in shown
    assert "<tr><th>rows selected</th><td>1,200</td></tr>" in shown


@pytest.mark.slow
def test_one_call_embeds_a_table(bench: Bench) -> None:
    bench.write([(1, "one"), (2, "two")])
    settings = {"key": "id", "model": bench.spec.model, "dtype": "float32", "device": "cpu", "max_tokens": 64}
    report = embed_table(bench.path, text="text", spark=bench.spark, progress=Silence(), **settings)
    assert (report["status"], report["rows_embedded"]) == ("done", 2)
    assert f"{bench.path}: column embedding" in repr(report)
    assert bench.rows()[1]["embedding"] is not None
    assert embed_table(bench.path, spark=bench.spark, full=True, **settings)["looked_at"] == "all rows: it was asked for"
