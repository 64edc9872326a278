"""Words that a model proposes for a user's meta-task, and scores on labelled pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet, cli
from metaeol_udf.evaluation.data import read_pairs
from metaeol_udf.explain.language_model import load_language_model
from metaeol_udf.explain.proposals import propose_aspects, single_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (" priority, importance, severity\nPlace: x", ("priority", "importance", "severity")),
        (" Priority., priority, urgency, 'speed'", ("priority", "speed")),
        ("12, a, two words, {text}, x_y, größe", ("größe",)),
        ("\n\n", ()),
        ("", ()),
    ],
)
def test_only_single_words_are_usable(line: str, words: tuple[str, ...]) -> None:
    assert single_words(line, "Urgency") == words


@pytest.mark.long
def test_the_demo_model_proposes_words_and_the_same_ones_again(model_dir: Path) -> None:
    language_model = load_language_model(EmbeddingSpec(model=str(model_dir), dtype="float32"), "cpu")
    words = propose_aspects(language_model, "urgency")
    assert words
    assert all(word.isalpha() and word != "urgency" for word in words)
    assert propose_aspects(language_model, "urgency") == words


def draft_with(model: Path, path: Path) -> None:
    """Draft a set for one meta-task with the model's words, as a user does."""
    command = ["templates", "new", "mine", "--meta-task", "urgency", "--out", str(path), "--model", str(model), "--draft"]
    assert cli.run([*command, "--device", "cpu"]) == 0


@pytest.mark.long
def test_a_draft_asks_for_the_models_words(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    draft_with(model_dir, path)
    said = capsys.readouterr().err
    first = said.partition("the model's words for 'urgency': ")[2].split(",")[0].strip()
    assert [t.suffix for t in TemplateSet.load(path).templates] == ['" Urgency: "', f'" {first.capitalize()}: "']


def test_without_usable_words_the_form_stands_and_the_command_says_so(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(tiny_model_dir, silent)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(silent, tie_word_embeddings=False))
    torch.nn.init.zeros_(model.lm_head.weight)  # all words are equally likely: it writes the first, a special token
    model.save_pretrained(silent)
    path = tmp_path / "mine.yaml"
    draft_with(silent, path)
    assert "the model's words for 'urgency': nothing usable; the form's own word stays\n" in capsys.readouterr().err
    assert [t.suffix for t in TemplateSet.load(path).templates] == ['" Urgency: "', '" Answer: "']


def pairs_file(folder: Path, scores: list[str]) -> Path:
    path = folder / "pairs.tsv"
    pairs = [("a cat", "the cat"), ("a dog", "two dogs play"), ("the river", "it rains"), ("music", "a guitar and a song")]
    path.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{score}\n" for (a, b), score in zip(pairs, scores, strict=True)))
    return path


def new_set(out: Path, model: Path, pairs: Path) -> list[str]:
    asked = ["--meta-task", "urgency", "--out", str(out), "--model", str(model), "--pairs", str(pairs), "--device", "cpu", "--json"]
    return ["templates", "new", "mine", *asked]


def test_the_score_is_spearmans(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, pairs = tmp_path / "mine.yaml", pairs_file(tmp_path, ["4.0", "1.0", "2.0", "3.0"])
    assert cli.run(new_set(out, tiny_model_dir, pairs)) == 0
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load(out), device="cpu")
    read = read_pairs(pairs)
    a, b = encoder.encode(read.sentences1), encoder.encode(read.sentences2)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    ranks = [np.argsort(np.argsort(values)) for values in (cosines, read.gold)]  # no ties
    expected = 100 * (1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (4 * 15))
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(expected)


def test_scores_that_are_all_the_same_are_refused_before_anything_is_written(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    assert cli.run(new_set(out, tiny_model_dir, pairs_file(tmp_path, ["1"] * 4))) == 2
    assert "all pairs have the same score" in capfd.readouterr().err
    assert not out.exists()
