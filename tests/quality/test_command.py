from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet, cli
from metaeol_udf.config import JobConfig, as_encoder_config, load_config, load_encoder_config, parse_encoder_config
from metaeol_udf.errors import ConfigError, MetaEOLError
from metaeol_udf.evaluation import StsTask, load_tasks, score_sts
from metaeol_udf.quality.command import run_evaluate
from metaeol_udf.quality.vectors import LocalVectors

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ANIMALS = ("cat", "dog", "horse", "bird", "fish", "mouse", "fox", "cow")
PLACES = ("garden", "house", "river", "street", "school")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty made pairs, no two of which are the same two sentences, and forty texts of two classes."""
    sentences = [f"The {animal} sleeps in the {place}." for animal in ANIMALS for place in PLACES]
    draw = np.random.default_rng(0)
    rows = [f"{'ab'[i % 2]}\t{sentences[i]}\t{sentences[(i + 11) % 40]}\t{draw.uniform(0, 5):.2f}" for i in range(40)]
    folder = tmp_path / "data"
    for kind, head, lines in (
        ("sts", "subset\tsentence1\tsentence2\tscore", rows),
        ("transfer", "split\tlabel\ttext", [f"all\t{i % 2}\t{sentence}" for i, sentence in enumerate(sentences)]),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"made_{kind}.tsv").write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture
def conf(tiny_model_dir: Path, data: Path, tmp_path: Path) -> Path:
    """A file without a table: model, labelled data, and nothing else."""
    path = tmp_path / "evaluate.yaml"
    blocks = {
        "embedding": {"model": str(tiny_model_dir), "dtype": "float32"},
        "runtime": {"device": "cpu"},
        "evaluation": {"data": str(data), "tasks": ["made_sts"], "resamples": 50},
    }
    path.write_text(yaml.safe_dump(blocks))
    return path


def report_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert cli.run(["evaluate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_scores_what_the_encoder_gives(conf: Path, data: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, conf)
    (task,) = load_tasks(data, ["made_sts"])
    assert isinstance(task, StsTask)
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")
    expected = score_sts(encoder.encode(task.sentences1), encoder.encode(task.sentences2), task.gold, task.subsets)
    found = report["sts"]["made_sts"]
    assert found["spearman_all"] == pytest.approx(expected.all, abs=0.05)
    assert found["spearman_mean"] == pytest.approx(expected.mean, abs=0.05)
    assert list(found["subsets"]) == ["a", "b"]
    assert found["spearman_all_interval"][0] < found["spearman_all"] < found["spearman_all_interval"][1]
    assert report["sts_average"] == found["spearman_all"]
    assert report["transfer"] == {}
    assert report["transfer_average"] is None
    assert (report["unique_texts"], report["texts_trimmed"], report["through"]) == (40, 0, "encoder")
    assert report["tokens_computed"] > 0
    assert set(report["seconds"]) == {"load", "embed", "score"}


def test_functions_without_a_table_take_a_path_mappings_or_a_spec(conf: Path, tiny_model_dir: Path) -> None:
    blocks = yaml.safe_load(conf.read_text())
    reports = [run_evaluate(given) for given in (conf, str(conf), blocks, load_encoder_config(conf))]
    assert len({(report["fingerprint"], report["sts_average"]) for report in reports}) == 1
    spec = EmbeddingSpec(model=str(tiny_model_dir), dtype="float32")
    bare = {"model": str(tiny_model_dir), "dtype": "float32"}
    assert as_encoder_config(spec).embedding == as_encoder_config(bare).embedding == as_encoder_config(conf).embedding
    with pytest.raises(ConfigError, match="a configuration must be an EmbeddingSpec, a mapping of settings or sections, or the path"):
        run_evaluate(7)  # type: ignore[arg-type]


def test_settings_of_the_job_change_the_vectors_that_are_scored(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, trimmed, short = (
        report_of(capsys, conf, *settings) for settings in ([], ["embedding.max_tokens=3"], ["embedding.truncate_dim=2"])
    )
    assert trimmed["texts_trimmed"] == 40
    assert len({report["sts_average"] for report in (plain, trimmed, short)}) == 3
    assert len({report["fingerprint"] for report in (plain, trimmed, short)}) == 3


def test_a_jobs_own_file_will_do_and_its_table_need_not_exist(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = yaml.safe_load(conf.read_text()) | {"source": {"table": str(tmp_path / "nowhere"), "key": ["id"]}}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(blocks))
    assert report_of(capsys, job)["sts_average"] == report_of(capsys, conf)["sts_average"]
    assert isinstance(load_encoder_config(job), JobConfig)
    assert not isinstance(load_encoder_config(conf), JobConfig)


def test_other_commands_still_need_their_source(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["embed", str(conf)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"metaeol: {conf}: source.table is missing (for other sources: source.path of files, or source.query)"
    assert lines[1:] == [f"{conf}: source.key is missing"]


def test_people_get_a_table_and_a_limit_that_wins(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(conf), "evaluation.limit=10", "--limit", "20"]) == 0
    title, head, all_pairs, subsets = capsys.readouterr().out.splitlines()
    assert title.endswith("tiny: templates metaeol, layer -1")
    assert head.split()[:4] == ["task", "figure", "score", "95"]
    assert all_pairs.startswith("  made_sts  Spearman, all pairs")
    assert all_pairs.endswith("20 pairs")
    assert subsets.endswith("2 of 2 subsets")


def test_transfer_tasks_and_the_figure(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="transfer tasks need scikit-learn: pip install 'metaeol-udf[evaluation]'")
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'metaeol-udf[plots]'")
    figure = tmp_path / "scores.svg"
    report = report_of(capsys, conf, "evaluation.tasks=null", "--plot", figure)
    assert report["transfer"]["made_transfer"]["protocol"] == "10 folds, C by 3 inner folds"
    assert 0 <= report["transfer_average"] <= 100
    drawing = figure.read_text()
    assert drawing.startswith("<?xml")
    assert "made_transfer" in drawing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation.data=null"], "evaluation.data is missing: name a folder"),
        (["evaluation.data=no/where"], "no tasks in no/where"),
        (["evaluation.tasks=[made_st]"], "did you mean 'made_sts'?"),
        (["embedding.layer=99"], "the model has 2 layers"),
        (["embedding.model=no/where"], "no such folder"),
        (["evaluation.nonsense=1"], "unknown key evaluation.nonsense"),
        (["--plot", "scores.txt"], "--plot scores.txt must end in .svg, .png or .pdf"),
        (["--plot", "no/where/scores.svg"], "there is no folder no/where"),
    ],
)
def test_what_is_wrong_exits_2_with_one_line(conf: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(conf), *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_missing_package_names_its_extra_before_anything_is_embedded(
    conf: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("sklearn", "matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    for arguments, extra in ((["--plot", "scores.svg"], "plots"), (["evaluation.tasks=null"], "evaluation")):
        assert cli.run(["evaluate", str(conf), *arguments]) == 2
        assert f"pip install 'metaeol-udf[{extra}]'" in capfd.readouterr().err


def test_a_text_that_fails_ends_it_with_counts_and_without_the_text(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = LocalVectors(load_encoder_config(conf))
    vectors(["a first text, which loads the model"])
    encoder = vectors.encoder
    assert encoder is not None
    run = encoder.engine.runner.run

    def with_nan(batch: Any, ids: Any) -> Any:
        states = [state.clone() for state in run(batch, ids)]
        for state in states:
            state[:] = float("nan")
        return states

    monkeypatch.setattr(encoder.engine.runner, "run", with_nan)
    with pytest.raises(MetaEOLError, match="2 texts could not be embedded, so nothing was scored: non_finite 2"):
        vectors(["a secret text", "another"])


def test_vectors_come_back_in_the_order_of_the_texts(conf: Path, tiny_model_dir: Path) -> None:
    texts = [f"a text with {'many ' * (n * 5 % 7)}words, number {n}" for n in range(25)]
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")
    np.testing.assert_allclose(LocalVectors(load_encoder_config(conf))(texts), encoder.encode(texts), atol=1e-4)


@pytest.mark.slow
def test_spark_gives_the_same_scores(spark: SparkSession, conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = report_of(capsys, conf), report_of(capsys, conf, "--spark")
    assert there["through"] == "spark"
    assert there["fingerprint"] == here["fingerprint"]
    for key in ("spearman_all", "spearman_mean"):
        assert there["sts"]["made_sts"][key] == pytest.approx(here["sts"]["made_sts"][key], abs=0.01)


@pytest.mark.slow
def test_a_text_that_fails_in_spark_ends_it_too(spark: SparkSession, conf: Path) -> None:
    from metaeol_udf.quality.spark_vectors import SparkVectors

    with pytest.raises(MetaEOLError, match="1 texts could not be embedded, so nothing was scored: empty_text 1"):
        SparkVectors(load_encoder_config(conf), spark)(["fine", " "])


@pytest.mark.slow
def test_the_score_is_that_of_the_plain_loop_on_smollm2(model_dir: Path, tmp_path: Path) -> None:
    import transformers

    from metaeol_udf.encoder.generic.reference import encode_plainly
    from metaeol_udf.encoder.loading import load_engine

    if not SHARED.is_dir():
        pytest.skip("the evaluation data is not beside this checkout (../shared/data)")
    path = tmp_path / "two.yaml"
    prompts = ['This sentence : "{text}" means in one word:"', 'The topic of this sentence : "{text}" means in one word:"']
    path.write_text(yaml.safe_dump({"name": "two", "templates": [{"meta_task": "any", "prompt": prompt} for prompt in prompts]}))
    config = parse_encoder_config(
        {
            "embedding": {"model": str(model_dir), "templates": str(path), "dtype": "float32"},
            "runtime": {"device": "cpu"},
            "evaluation": {"data": str(SHARED), "tasks": ["stsb_dev"], "limit": 60, "resamples": 0},
        }
    )
    found = run_evaluate(config)["sts"]["stsb_dev"]
    (task,) = load_tasks(SHARED, ["stsb_dev"], 60)
    assert isinstance(task, StsTask)
    templates = TemplateSet.load(path)
    model = transformers.AutoModel.from_pretrained(model_dir, dtype="float32").eval()
    tokenizer = load_engine(config.embedding, templates, "cpu").trie.tokenizer
    first, second = (encode_plainly(model, tokenizer, templates, texts, [30]).mean((1, 2)) for texts in (task.sentences1, task.sentences2))
    assert found["pairs"] == 60
    assert found["spearman_all"] == pytest.approx(score_sts(first, second, task.gold).all, abs=0.05)


def test_data_that_cannot_be_read_is_an_error_of_the_configuration(conf: Path, data: Path) -> None:
    (data / "sts" / "made_sts.tsv").write_text("subset\tsentence1\tsentence2\tscore\na\tb\tc\n")
    with pytest.raises(ConfigError, match=r"made_sts.tsv, line 2: a row must have 4 fields, found 3"):
        run_evaluate(load_encoder_config(conf))


def test_a_bare_spec_file_is_a_configuration_too(tmp_path: Path) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text("model: somewhere\nlayer: [1, 2]\npostprocess: mine.safetensors\n")
    config = load_encoder_config(spec, ["embedding.max_tokens=7", "runtime.device=cpu"])
    assert (config.embedding.layer, config.embedding.max_tokens, config.runtime.device) == ((1, 2), 7, "cpu")
    assert config.embedding.postprocess == str(tmp_path / "mine.safetensors")
    with pytest.raises(ConfigError, match=r"source\.table is missing"):
        load_config(spec)


def test_specs_are_scored_side_by_side(conf: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"model": str(tiny_model_dir), "dtype": "float32", "templates": "metaeol-fast", "layer": 1}))
    assert cli.run(["evaluate", str(conf), "--against", str(other), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert list(reports) == [str(conf), str(other)]
    assert reports[str(conf)] == {**report_of(capsys, conf), "seconds": reports[str(conf)]["seconds"]}
    alone = report_of(capsys, conf, f"embedding.spec={other}")
    assert reports[str(other)]["sts_average"] == alone["sts_average"] != reports[str(conf)]["sts_average"]
    assert cli.run(["evaluate", str(conf), "--against", str(other)]) == 0
    shown = capsys.readouterr().out
    assert f"{alone['sts_average']:.2f}" in shown
    assert "tokens computed" in shown
    assert cli.run(["evaluate", str(conf), "--against", str(other), "--format", "csv"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "configuration,kind,task,figure,score,low,high"
    assert f"{other},sts,made_sts,spearman_all,{alone['sts']['made_sts']['spearman_all']}" in lines[2]
    assert cli.run(["evaluate", str(conf), "--against", str(other), "--plot", "x.svg"]) == 2


def test_retrieval_is_scored_shown_and_drawn_beside_the_rest(
    conf: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'metaeol-udf[plots]'")
    folder = data / "retrieval" / "places"
    (folder / "qrels").mkdir(parents=True)
    texts = {f"d{n}": f"The {animal} sleeps in the {PLACES[n % 5]}." for n, animal in enumerate(ANIMALS)}
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": each, "text": text}) + "\n" for each, text in texts.items()))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": each[1:], "text": text}) + "\n" for each, text in texts.items()))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{each[1:]}\t{each}\t1\n" for each in texts))
    report = report_of(capsys, conf, "evaluation.tasks=[made_sts,places]", "--plot", tmp_path / "scores.svg")
    # Each query is its document's own text, so the document comes first.
    found = report["retrieval"]["places"]
    assert (found["queries"], found["documents"], found["ndcg_at_10"], found["recall_at_1"]) == (8, 8, 100, 100)
    assert found["mrr_at_10_interval"] == [100, 100]
    assert report["retrieval_average"] == 100
    assert "nDCG@10" in (tmp_path / "scores.svg").read_text()
    assert cli.run(["evaluate", str(conf), "evaluation.tasks=[places]"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [next(part for part in line[2:] if part).strip() for line in lines][1:] == ["MRR@10", "recall@1", "recall@10", "recall@100"]
