"""The estimate against the run that follows it: tokens, rows and waves; that it writes nothing; and its arithmetic."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaeol_udf import cli
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.estimate import EstimateOptions, run_estimate
from metaeol_udf.estimate.probe import summarise
from metaeol_udf.estimate.projection import Rates, better_wave_rows, project, wave_count, writing_seconds, written_bytes
from tests.corpus import corpus_texts
from tests.table_bench import Bench

QUICK = EstimateOptions(probe_seconds=0.1)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
def test_tokens_of_a_sample_predict_those_of_the_run_that_follows(bench: Bench) -> None:
    texts = corpus_texts()[::200][:240]
    bench.write([*enumerate(texts), (10_000, texts[0]), (10_001, None)])
    before = files(bench.folder)
    estimate = run_estimate(bench.config(), EstimateOptions(sample_texts=120, probe_seconds=0.1), bench.spark)
    assert files(bench.folder) == before
    assert 60 <= estimate["sample_texts"] <= 120
    report = bench.run()
    assert estimate["rows_pending"] == report["rows_selected"]
    assert estimate["unique_texts"] == report["unique_texts"]
    assert estimate["tokens_to_compute"] == pytest.approx(report["tokens_computed"], rel=0.25)
    assert estimate["tokens_saved"] == pytest.approx(report["tokens_saved"], rel=0.25)
    assert estimate["fingerprint"] == report["fingerprint"]
    after = run_estimate(bench.config(), QUICK, bench.spark)
    assert (after["rows_pending"], after["unique_texts"], after["tokens_to_compute"], after["waves"]) == (0, 0, 0, 0)
    assert after["probe"] is None


@pytest.mark.slow
def test_a_sample_of_all_texts_counts_exactly(bench: Bench) -> None:
    bench.write([(n, f"text number {n} of some") for n in range(30)] + [(30, "text number 0 of some"), (31, " ")])
    estimate = run_estimate(bench.config(runtime={"wave_rows": 7}), QUICK, bench.spark)
    assert (estimate["sample_texts"], estimate["unique_texts"], estimate["rows_pending"]) == (30, 30, 32)
    assert estimate["dedupe_rate"] == pytest.approx(1 / 32, abs=1e-4)
    assert estimate["waves"] == 5
    assert estimate["bytes_written"]["vectors"] == 32 * 32 * 4
    assert estimate["probe"]["tokens"] > 0
    assert estimate["projections"][0]["executors"] == 1
    report = bench.run()  # in one task; prefixes are counted once a load, and a worker may have the model already
    prefixes = estimate["tokens_to_compute"] - estimate["tokens_per_text"] * 30
    assert abs(estimate["tokens_to_compute"] - report["tokens_computed"]) <= prefixes + 0.05 * report["tokens_computed"]


def test_a_known_rate_loads_no_model_and_projects_to_many_executors(bench: Bench) -> None:
    bench.write([(n, f"text {n}") for n in range(10)])
    options = EstimateOptions(executors=[1, 8, 64], tokens_per_second=1.0, price_per_hour=3600.0)
    estimate = run_estimate(bench.config(), options, bench.spark)
    assert estimate["probe"] is None
    seconds = estimate["seconds"]
    assert min(seconds[phase] for phase in ("select", "workers", "commit")) > 0
    assert seconds["load"] == 0
    fixed = sum(seconds[phase] for phase in ("session", "select", "workers", "commit"))
    for line, n in zip(estimate["projections"], (1, 8, 64), strict=True):
        assert line["executors"] == n
        assert line["seconds"] == pytest.approx(fixed + (estimate["tokens_to_compute"] + seconds["publish"]) / n, abs=0.2)
        assert line["cost"] == pytest.approx(line["seconds"] * n, abs=0.1 * n)


def test_what_the_job_would_refuse_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="no Delta table"):
        run_estimate(bench.config(), QUICK, bench.spark)
    bench.write([(1, "a"), (1, "b")])
    with pytest.raises(InputError, match=r"source\.key"):
        run_estimate(bench.config(), QUICK, bench.spark)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="--executors"):
        EstimateOptions(executors=[0])
    with pytest.raises(ConfigError, match="--tokens-per-second"):
        EstimateOptions(tokens_per_second=0.0)


def test_start_up_is_paid_once_and_the_rest_is_shared() -> None:
    lines = project(1_000_000, Rates(tokens_per_second=100.0, fixed_s=50.0, shared_s=20.0), [1, 10], None)
    assert [line["seconds"] for line in lines] == [10_070.0, 1_052.0]
    assert [line["cost"] for line in lines] == [None, None]
    assert project(0, Rates(0.0, 5.0), [4], 2.0) == [{"executors": 4, "seconds": 5.0, "hours": 0.001, "cost": 0.01}]


def test_writing_grows_with_rows_and_vectors_and_is_nothing_without_them() -> None:
    commit_s, publish_s = writing_seconds(1_000_000, 576, slots=2, waves=1)
    assert commit_s > 0
    assert writing_seconds(2_000_000, 576, slots=2, waves=1) == pytest.approx((commit_s, 2 * publish_s))
    assert writing_seconds(1_000_000, 1152, slots=4, waves=1) == pytest.approx((commit_s, publish_s))
    assert writing_seconds(0, 576, slots=2, waves=0) == (0.0, 0.0)


def test_each_wave_costs_a_commit_and_short_waves_are_told_of() -> None:
    one, two, many = (writing_seconds(1_000_000, 576, slots=2, waves=waves)[0] for waves in (1, 2, 1001))
    assert many - one == pytest.approx(1000 * (two - one)) != 0
    assert better_wave_rows(1_000_000, 50_000, embedding_s=20 * 600.0) is None  # ten minutes a wave
    assert better_wave_rows(1_000_000, 50_000, embedding_s=20 * 30.0) == 500_000
    assert better_wave_rows(30_000, 50_000, embedding_s=1.0) is None  # it is one wave
    assert better_wave_rows(1_000_000, 50_000, embedding_s=0.0) is None


def test_rates_of_workers_add_and_tasks_of_one_worker_follow_each_other() -> None:
    def task(worker: str, load_s: float, tokens: int, seconds: float) -> dict[str, Any]:
        return {"worker": worker, "load_s": load_s, "tokens": tokens, "seconds": seconds}

    probe = summarise([task("a", 3.0, 100, 1.0), task("a", 0.1, 300, 1.0), task("b", 2.0, 100, 2.0)])
    assert (probe.workers, probe.load_s, probe.tokens, probe.tokens_per_second) == (2, 3.0, 500, 250.0)


def test_bytes_and_waves() -> None:
    assert written_bytes(100, 80, 576, 5000) == {"journal": 80 * (576 * 4 + 150), "vectors": 100 * 576 * 4, "rewritten": 5000}
    assert written_bytes(0, 0, 576, 5000) == {"journal": 0, "vectors": 0, "rewritten": 0}
    assert [wave_count(n, 50) for n in (0, 1, 50, 51)] == [0, 1, 1, 2]


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_number_of_executors(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write([(1, "a text"), (2, "another")])
    conf = tmp_path / "job.yaml"
    blocks = {
        "source": {"table": bench.path, "key": ["id"]},
        "embedding": {"model": bench.spec.model, "dtype": "float32"},
        "runtime": {"device": "cpu"},
        "estimate": {"price_per_hour": 2.5},
    }
    conf.write_text(yaml.safe_dump(blocks))
    known = ["--tokens-per-second", "1000", "--executors", "1,8"]
    assert cli.run(["estimate", str(conf), *known]) == 0
    shown = capsys.readouterr().out
    assert "unique texts" in shown
    assert "8 executors" in shown
    assert "cost" in shown
    assert cli.run(["estimate", str(conf), *known, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["projections"][1]["executors"] == 8
    assert cli.run(["estimate", str(conf), *known, "--format", "csv"]) == 0
    head, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head[:4] == ["executors", "seconds", "hours", "cost"]
    assert [line[0] for line in lines] == ["1", "8"]
    assert "phases.select" in head
    assert cli.run(["estimate", str(conf), "--executors", "many"]) == 2
    assert "--executors" in capsys.readouterr().err
