"""Plans against the runs that follow them, and that making one writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metaeol_udf import cli
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import InputError
from metaeol_udf.estimate import dry_run
from metaeol_udf.estimate.dry_run import plan_dry_run
from tests.table_bench import Bench

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["embedding", "embedding_error", "embedding_fingerprint"]


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.slow
def test_the_plan_of_embed_is_what_the_run_then_does_and_writes_nothing(bench: Bench) -> None:
    bench.write([(n, f"text number {n}") for n in range(20)] + [(20, "text number 0"), (21, None), (22, " "), (23, "long " * 100)])
    own = {"target": {"table": str(bench.folder / "vectors")}, "runtime": {"wave_rows": 6, "report": str(bench.folder / "new/report.json")}}
    before = contents(bench.folder)
    plan = plan_dry_run(bench.config(**own), spark=bench.spark)
    assert contents(bench.folder) == before
    assert (plan["rows_selected"], plan["rows_skipped"], plan["rows_pending"]) == (24, 0, 24)
    assert (plan["unique_texts"], plan["texts_without_content"], plan["waves"]) == (21, 2, 4)
    assert (plan["creates_target"], plan["adds_columns"]) == (True, COLUMNS)
    assert plan["tokens_counted"]
    assert plan["migration"] is None
    own["runtime"].pop("report")
    report = bench.run(**own)
    assert (report["rows_selected"], report["unique_texts"], report["fingerprint"]) == (24, plan["unique_texts"], plan["fingerprint"])
    assert plan["trimmed_texts"] == report["rows_trimmed"] == 1
    assert report["delta_versions"]["source"] == plan["source_version"]
    # Prompts are the same; which of them share a start depends on how tasks cut their windows.
    whole = report["tokens_computed"] + report["tokens_saved"]
    assert plan["tokens_to_compute"] + plan["tokens_saved"] == pytest.approx(whole, rel=0.1)
    after = plan_dry_run(bench.config(**own), spark=bench.spark)
    assert (after["rows_pending"], after["unique_texts"], after["tokens_to_compute"], after["waves"]) == (0, 0, 0, 0)
    assert (after["creates_target"], after["adds_columns"]) == (False, [])


@pytest.mark.slow
def test_the_plan_counts_a_migration(bench: Bench) -> None:
    bench.write([(1, "a text"), (2, "another")])
    assert plan_dry_run(bench.config(), spark=bench.spark)["adds_columns"] == COLUMNS
    old = bench.run()["fingerprint"]
    bench.write([(3, "a third")], mode="append")
    plan = plan_dry_run(bench.config(embedding={"layer": 1}), spark=bench.spark)
    assert plan["migration"] == {"rows_of_other_specs": 2, "rows_new": 1, "rows_changed": 0, "from": [old], "to": plan["fingerprint"]}


def test_tokens_of_many_texts_are_projected_and_said_to_be(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([(n, f"text number {n}") for n in range(60)])
    exact = plan_dry_run(bench.config(), spark=bench.spark)
    monkeypatch.setattr(dry_run, "SAMPLE_TEXTS", 20)
    plan = plan_dry_run(bench.config(), spark=bench.spark)
    assert exact["tokens_counted"]
    assert not plan["tokens_counted"]
    assert 0 < plan["sample_texts"] <= 20
    assert plan["tokens_to_compute"] == pytest.approx(exact["tokens_to_compute"], rel=0.1)


@pytest.mark.slow
def test_the_plan_of_retry_holds_the_curable_rows_alone(bench: Bench) -> None:
    bench.write([(1, "a text"), (2, None), (3, "a third")])
    bench.run()
    bench.spark.sql(f"UPDATE delta.`{bench.path}` SET embedding = NULL, embedding_error = 'oom' WHERE id = 3")
    before = contents(bench.folder)
    plan = plan_dry_run(bench.config(), "retry", bench.spark)
    assert contents(bench.folder) == before
    assert (plan["rows_selected"], plan["rows_pending"]) == (1, 1)


@pytest.mark.slow
def test_the_plan_of_a_stream_says_where_it_goes_on_and_leaves_no_checkpoint(bench: Bench) -> None:
    bench.write([(1, "a text")])
    own = {"target": {"table": str(bench.folder / "vectors")}}
    before = contents(bench.folder)
    first = plan_dry_run(bench.config(**own), "stream", bench.spark)["stream"]
    assert contents(bench.folder) == before
    assert first == {"checkpoint": None, "follows_from": None, "start": "earliest", "trigger": "availableNow"}
    run_stream(bench.config(**own), bench.spark, bench.progress)
    before = contents(bench.folder)
    later = plan_dry_run(bench.config(**own), "stream", bench.spark)
    assert contents(bench.folder) == before
    assert later["stream"]["follows_from"] == 0
    assert Path(later["stream"]["checkpoint"].removeprefix("file:")).is_dir()
    assert later["rows_pending"] == 0


def test_what_the_job_refuses_the_plan_refuses(bench: Bench) -> None:
    bench.write([(1, "a"), (1, "b")])
    with pytest.raises(InputError, match=r"source\.key"):
        plan_dry_run(bench.config(), spark=bench.spark)


@pytest.mark.slow
def test_the_command_prints_the_plan_and_leaves_its_folder_as_it_was(bench: Bench) -> None:
    """In a process of its own, whose Spark starts in an empty folder."""
    bench.write([(1, "a text"), (2, "another")])
    blocks = bench.blocks(spark={"master": "local[1]"})
    (bench.folder / "job.yaml").write_text(yaml.safe_dump(blocks))
    before = contents(bench.folder)
    command = [sys.executable, "-m", "metaeol_udf.cli", "embed", "job.yaml", "--dry-run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=bench.folder, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(bench.folder) == before
    assert "rows to embed" in done.stdout
    assert "tokens are of all texts; nothing was written" in done.stdout


def test_the_plan_can_be_read_by_machines(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write([(1, "a text")])
    (bench.folder / "job.yaml").write_text(yaml.safe_dump(bench.blocks()))
    before = contents(bench.folder)
    for command in ("embed", "retry", "stream"):
        assert cli.run([command, str(bench.folder / "job.yaml"), "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["command"] == command
    assert contents(bench.folder) == before
