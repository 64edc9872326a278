from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, cli
from metaeol_udf.encoder.checkpoint.resolve import resolve_local

pytestmark = pytest.mark.long

WORDS = ("cat", "dog", "horse", "bird", "fish", "mouse", "fox", "cow", "ant", "bee")


@pytest.fixture
def conf(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model and 120 made pairs, no text in two of them; no table."""
    draw = np.random.default_rng(0)
    rows = [
        f"a\tThe {WORDS[i % 10]} sleeps in house {i}.\tA {WORDS[(i * 3) % 10]} runs to street {i}.\t{draw.uniform(0, 5):.2f}"
        for i in range(120)
    ]
    (tmp_path / "data" / "sts").mkdir(parents=True)
    (tmp_path / "data" / "sts" / "made.tsv").write_text("\n".join(["subset\tsentence1\tsentence2\tscore", *rows]) + "\n")
    path = tmp_path / "tune.yaml"
    blocks = {
        "embedding": {"model": str(tiny_model_dir), "dtype": "float32", "templates": "metaeol-fast"},
        "runtime": {"device": "cpu"},
        "evaluation": {"data": str(tmp_path / "data")},
    }
    path.write_text(yaml.safe_dump(blocks))
    return path


def test_the_written_spec_scores_as_the_report_says(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "specs" / "mine.yaml", tmp_path / "front.svg"
    assert cli.run(["tune", str(conf), "--out", str(out), "--plot", str(plot), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs_chosen_on"] + report["pairs_held_out"] == 120
    assert report["chosen"] in [*report["front"], report["baseline"]]
    assert report["chosen"]["cost"] <= 1.0
    assert str(out) in report["files"]
    assert plot.read_text().startswith("<?xml")
    spec = EmbeddingSpec.load(out)
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    assert len(encoder.templates.templates) == report["chosen"]["n_templates"]
    assert f"{report['chosen']['held_out']:.1f} on what was held out" in out.read_text()
    # The written spec is a configuration for evaluate, too.
    assert cli.run(["evaluate", str(out), f"evaluation.data={tmp_path / 'data'}", "runtime.device=cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == resolve_local(spec).fingerprint


@pytest.mark.slow
def test_the_table_shows_configuration_front_and_choice(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tune", str(conf), "evaluation.limit=100", "--format", "csv"]) == 0
    head, configured, *front = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head[:2] == ["candidate", "templates"]
    assert (configured[0], {line[0] for line in front} <= {"front", "chosen"}) == ("configured", True)
    assert cli.run(["tune", str(conf), "evaluation.limit=100"]) == 0
    printed = capsys.readouterr().out
    assert "as configured" in printed
    assert "chosen" in printed
    assert "held out" in printed


def test_a_retrieval_set_is_what_is_tuned_for(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    for name, start in (("queries", "Where sleeps"), ("corpus", "In house")):
        rows = [json.dumps({"_id": str(i), "text": f"{start} {i} the {WORDS[i % 10]}"}) for i in range(80)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    judged = "".join(f"{i}\t{i}\t1\n" for i in range(80))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    assert cli.run(["tune", str(conf), f"evaluation.data={folder}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["score"], report["tasks"], report["of"]) == ("nDCG@10 x 100, mean over 1 task", {"beir": 80}, "queries")
    low, high = report["chosen"]["held_out_intervals"]["beir"]
    assert low <= report["chosen"]["held_out_scores"]["beir"] <= high
    assert cli.run(["curves", str(conf), f"evaluation.data={folder}"]) == 2
    assert "holds no pairs" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_curves_by_layer_and_by_prompts(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "layers.svg", tmp_path / "prompts.svg"
    assert cli.run(["curves", str(conf), "--layers", str(drawn[0]), "--prompts", str(drawn[1]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # JSON has no NaN
    assert [point["layer"] for point in report["by_layer"]] == [0, 1, 2]
    assert [point["n_prompts"] for point in report["by_prompts"]] == list(range(1, 9))
    assert report["by_prompts"][-1]["score"] == pytest.approx(report["by_layer"][-1]["score"])
    assert all(path.is_file() for path in drawn)
    assert cli.run(["curves", str(conf)]) == 0
    assert "mean removed" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--out", "spec.txt"], "must end in .yaml"),
    (["evaluation.data=null"], "evaluation.data is missing"),
    (["--unlabelled"], "source.table"),
    (["--plot", "front.doc"], "must end in"),
])  # fmt: skip
def test_what_cannot_be_tuned_is_refused(arguments: list[str], message: str, conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tune", str(conf), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
