"""The doctor on real tables and a real session: what it finds, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from delta import DeltaTable
from safetensors.torch import load_file, save_file

from metaeol_udf import cli
from metaeol_udf.delta.tables import target
from metaeol_udf.delta.tables.refs import TableRef, open_table
from metaeol_udf.doctor import Finding, Level, examine, exit_code
from metaeol_udf.doctor.tables import check_statistics
from metaeol_udf.errors import ModelFilesError
from tests.table_bench import Bench

ROWS = [(1, "one"), (2, "two")]


def examined(bench: Bench, **sections: dict[str, Any]) -> dict[str, Finding]:
    found = list(examine(bench.config(**sections), bench.spark))
    named = {finding.check: finding for finding in found}
    assert all(finding.setting for finding in found if finding.level is not Level.OK)
    return named


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_good_job_has_no_problem_and_nothing_is_written(bench: Bench) -> None:
    bench.write(ROWS)
    before = tree(bench.folder)
    found = examined(bench, runtime={"max_failed_fraction": 0.01})
    assert {check: f for check, f in found.items() if f.level is Level.PROBLEM} == {}
    assert exit_code(list(found.values())) == 0
    assert {"java", "versions", "workers", "columns", "keys", "writable", "catalog", "commits", "disk", "model files"} <= found.keys()
    assert found["catalog"].found == "the names of tables outlive this process"
    assert tree(bench.folder) == before


def test_a_name_that_the_next_process_does_not_find_is_a_warning(bench: Bench) -> None:
    bench.write(ROWS)
    found = examined(bench, target={"table": "default.kept_vectors"})["catalog"]
    assert found.level is Level.WARNING
    assert "catalog is in memory and ends with the process, and with it the name default.kept_vectors" in found.found
    assert found.setting == "target.table=./kept_vectors, which is a path, or spark.sql.catalogImplementation=hive with a metastore"


@pytest.mark.parametrize(
    ("check", "rows", "schema", "sections", "setting"),
    [
        ("source", None, "", {}, "source.table="),
        ("columns", ROWS, "id long, words string", {}, "source.text="),
        ("columns", [(1, 2)], "id long, text int", {}, "source.text="),
        ("columns", ROWS, "number long, text string", {}, "source.key="),
        ("keys", [(1, "a"), (1, "b")], "id long, text string", {}, "source.key="),
        ("keys", [(None, "a")], "id long, text string", {}, "source.key="),
        ("condition", ROWS, "id long, text string", {"source": {"where": "nonsense > 3"}}, "source.where="),
        ("vector columns", [(1, "a", 0.5)], "id long, text string, embedding double", {}, "embedding.column=embedding_2"),
    ],
)
def test_a_table_that_the_job_would_refuse_is_found(
    bench: Bench, check: str, rows: list[tuple[Any, ...]] | None, schema: str, sections: dict[str, Any], setting: str
) -> None:
    if rows is not None:
        bench.write(rows, schema)
    finding = examined(bench, **sections)[check]
    assert (finding.level, finding.exit_code) == (Level.PROBLEM, 2), finding
    assert finding.setting.startswith(setting)


@pytest.mark.parametrize(
    ("check", "properties", "level", "setting"),
    [
        ("vector columns", {"delta.appendOnly": "true"}, Level.PROBLEM, "target.table="),
        ("change feed", {"delta.enableChangeDataFeed": "true"}, Level.WARNING, "target.table="),
        ("retention", {"delta.deletedFileRetentionDuration": "interval 2 hours"}, Level.WARNING, "delta.deletedFileRetentionDuration="),
    ],
)
def test_a_table_property_that_is_in_the_way_is_found(
    bench: Bench, check: str, properties: dict[str, str], level: Level, setting: str
) -> None:
    builder = DeltaTable.create(bench.spark).location(bench.path).addColumn("id", "long").addColumn("text", "string")
    for key, value in properties.items():
        builder = builder.property(key, value)
    builder.execute()
    finding = examined(bench)[check]
    assert finding.level is level
    assert finding.setting.startswith(setting)


@pytest.mark.parametrize(
    ("schema", "properties"),
    [
        ("id long, text string", {}),
        ("id long, text string", {"delta.dataSkippingStatsColumns": "id"}),
        ("id long, text string", {"delta.dataSkippingStatsColumns": "id, Text"}),
        ("id long, `my, text` string", {"delta.dataSkippingStatsColumns": "id,`my, text`", "delta.columnMapping.mode": "name"}),
        ("id long, `my, text` string", {"delta.dataSkippingStatsColumns": "`id`", "delta.columnMapping.mode": "name"}),
        ("id long, text string", {"delta.dataSkippingNumIndexedCols": "0"}),
        ("id long, text string", {"delta.dataSkippingNumIndexedCols": "1"}),
        ("id long, text string", {"delta.dataSkippingNumIndexedCols": "2"}),
        ("id long, s struct<a: int, b: int>, text string", {"delta.dataSkippingNumIndexedCols": "3"}),
        ("id long, s struct<a: int, b: int>, text string", {"delta.dataSkippingNumIndexedCols": "4"}),
        ("id long, " + ", ".join(f"c{n} int" for n in range(31)) + ", text string", {}),
        ("id long, " + ", ".join(f"c{n} int" for n in range(31)) + ", text string", {"delta.dataSkippingNumIndexedCols": "-1"}),
    ],
)
def test_texts_in_the_statistics_of_a_table_are_found_where_delta_writes_them(
    bench: Bench, schema: str, properties: dict[str, str]
) -> None:
    shown = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items()) or "'delta.appendOnly' = 'false'"
    bench.spark.sql(f"CREATE TABLE delta.`{bench.path}` ({schema}) USING delta TBLPROPERTIES ({shown})")
    columns = bench.table().columns
    bench.spark.sql(f"INSERT INTO delta.`{bench.path}` VALUES (1, {'NULL, ' * (len(columns) - 2)}'secret words')")
    table = TableRef(bench.path, is_path=True)
    detail = open_table(bench.spark, table, "source.table").detail().collect()[0]
    finding = check_statistics(bench.table().schema, detail, columns[-1:], table, in_place=True)
    in_log = any("secret words" in path.read_text() for path in Path(bench.path, "_delta_log").glob("*.json"))
    assert finding.level is Level.OK
    assert (f"ALTER TABLE delta.`{bench.path}` SET TBLPROPERTIES ('delta.dataSkippingStatsColumns'" in finding.found) == in_log, finding


def test_a_table_of_its_own_holds_no_text_in_its_statistics(bench: Bench) -> None:
    bench.write(ROWS)
    assert "SET TBLPROPERTIES" not in examined(bench, target={"table": str(bench.folder / "target")})["statistics"].found
    assert "SET TBLPROPERTIES" in examined(bench)["statistics"].found


def test_a_text_column_that_is_a_key_column_is_found(bench: Bench) -> None:
    bench.write(ROWS)
    finding = examined(bench, source={"key": ["id", "TEXT"]})["columns"]
    assert (finding.level, finding.setting[:11]) == (Level.WARNING, "source.key="), finding
    assert "target and quarantine store texts as keys" in finding.found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "setting"),
    [({}, ", or target.table=<a table of its own>"), ({"target": {"table": "target"}}, "'delta.enableDeletionVectors' = 'true')")],
    ids=["in place", "target"],
)
def test_a_table_whose_files_are_rewritten_for_few_rows_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], setting: str
) -> None:
    bench.write(ROWS)
    if sections:
        sections["target"]["table"] = str(bench.folder / "target")
        bench.run(**sections)
    assert examined(bench, **sections)["rewrites"].level is Level.OK  # so few rows are no matter
    monkeypatch.setattr(target, "LARGE_BYTES", 1)
    finding = examined(bench, **sections)["rewrites"]
    written = bench.folder / "target" if sections else bench.path
    assert (finding.level, finding.setting.endswith(setting)) == (Level.WARNING, True), finding
    assert "each changed row rewrites its file" in finding.found
    bench.spark.sql(f"ALTER TABLE delta.`{written}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    assert examined(bench, **sections)["rewrites"].level is Level.OK


def test_the_estimate_of_what_is_rewritten_counts_vectors_that_are_to_come() -> None:
    detail = {"sizeInBytes": 600 * 2**20, "numFiles": 3, "properties": {}}
    assert target.rewritten_bytes(detail) is None
    assert target.rewritten_bytes(detail, 600 * 2**20) == (400 * 2**20, 1200 * 2**20)
    assert target.rewritten_bytes({**detail, "properties": {"delta.enableDeletionVectors": "true"}}, 2**40) is None


def test_a_target_under_a_file_is_found(bench: Bench) -> None:
    bench.write(ROWS)
    (bench.folder / "file").write_text("no folder")
    finding = examined(bench, target={"table": str(bench.folder / "file" / "target")})["writable"]
    assert (finding.level, finding.exit_code) == (Level.PROBLEM, 5)


def test_a_folder_in_the_place_of_a_file_is_found(bench: Bench) -> None:
    files = {"report": "r.json", "report_page": "r.html", "prometheus": "r.prom"}
    for name in files.values():
        (bench.folder / name).mkdir()
    found = list(examine(bench.config(runtime={setting: str(bench.folder / name) for setting, name in files.items()}), bench.spark))
    problems = [(finding.setting, finding.exit_code) for finding in found if finding.check == "writable" and finding.level is Level.PROBLEM]
    assert problems == [(f"runtime.{name}=<a file>", 5) for name in files]


def test_a_table_with_a_feature_that_the_installed_delta_lacks_is_found(bench: Bench) -> None:
    bench.write(ROWS)
    future = bench.folder / "future"
    shutil.copytree(bench.path, future)
    for checksum in list((future / "_delta_log").glob("*.crc")):  # Delta's own and Hadoop's hidden ones
        checksum.unlink()
    commit = future / "_delta_log" / f"{0:020}.json"
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["fromTheFuture"], "writerFeatures": ["fromTheFuture"]}
    lines = [json.dumps({"protocol": protocol}) if "protocol" in json.loads(line) else line for line in commit.read_text().splitlines()]
    commit.write_text("\n".join(lines) + "\n")
    found = list(examine(bench.config(source={"table": str(future), "key": ["id"]}), bench.spark))
    problems = [finding for finding in found if finding.level is Level.PROBLEM]
    assert [finding.exit_code for finding in problems] == [2]
    assert "DELTA_UNSUPPORTED_FEATURES" in problems[0].found


@pytest.mark.slow
def test_vectors_of_another_spec_are_found(bench: Bench) -> None:
    bench.write([(1, None)])  # needs no model
    bench.run()
    assert examined(bench)["fingerprint"].level is Level.OK
    finding = examined(bench, embedding={"layer": 1})["fingerprint"]
    assert finding.level is Level.WARNING
    assert "every row is embedded anew" in finding.found


def test_a_model_that_lacks_a_tensor_is_found_by_doctor_and_job_in_the_same_words(bench: Bench, tmp_path: Path) -> None:
    bench.write(ROWS)
    folder = Path(shutil.copytree(bench.spec.model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    finding = examined(bench, embedding={"model": str(folder)})["workers"]
    assert (finding.level, finding.exit_code) == (Level.PROBLEM, 5), finding
    with pytest.raises(ModelFilesError) as refused:
        bench.run(embedding={"model": str(folder)})
    assert str(refused.value) == finding.found
    assert "lacks layers.1.mlp.down_proj.weight" in finding.found
    assert bench.versions() == 1  # nothing was written
    assert bench.versions("table__metaeol_journal") == 0


def test_a_setting_that_the_session_does_not_take_is_found(bench: Bench) -> None:
    bench.write(ROWS)
    found = examined(bench, spark={"conf": {"spark.speculation": True}})
    assert found["session settings"].level is Level.WARNING
    assert found["speculation"].level is Level.WARNING


def test_the_command_prints_findings_and_exits_by_the_worst(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    conf = tmp_path / "job.yaml"
    conf.write_text(yaml.safe_dump({"source": {"table": bench.path, "key": ["id"]}, "embedding": {"model": bench.spec.model}}))
    assert cli.run(["doctor", str(conf), "runtime.report=/dev/null/report.json", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert {"writable", "source"} <= {f["check"] for f in found if f["level"] == "problem"}
    assert [record.getMessage() for record in caplog.records].count("checking") == 1  # not a line a check
    assert cli.run(["doctor", str(conf)]) == 2
    assert "set source.table=" in capsys.readouterr().out
    assert cli.run(["doctor", str(conf), "runtime.devise=cuda"]) == 2
    shown = capsys.readouterr().out
    assert "did you mean 'device'" in shown
    assert "problem  configuration" in shown
