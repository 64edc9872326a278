"""Words that a model proposes for a user's meta-task, and scores on labelled pairs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet, cli
from metaeol_udf.errors import ConfigError
from metaeol_udf.explain.language_model import load_language_model
from metaeol_udf.explain.proposals import propose_aspects, single_words
from metaeol_udf.quality.pairs import Pairs, read_pairs, score_pairs

HEADER = "sentence1\tsentence2\tscore\n"


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


def test_the_demo_model_proposes_words_and_the_same_ones_again(model_dir: Path) -> None:
    language_model = load_language_model(EmbeddingSpec(model=str(model_dir), dtype="float32"), "cpu")
    words = propose_aspects(language_model, "urgency")
    assert words
    assert all(word.isalpha() and word != "urgency" for word in words)
    assert propose_aspects(language_model, "urgency") == words


def test_a_draft_asks_for_the_models_words(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    command = [
        "templates",
        "new",
        "mine",
        "--meta-task",
        "urgency",
        "--out",
        str(path),
        "--model",
        str(model_dir),
        "--draft",
        "--device",
        "cpu",
    ]
    assert cli.run(command) == 0
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
    command = [
        "templates",
        "new",
        "mine",
        "--meta-task",
        "urgency",
        "--out",
        str(path),
        "--model",
        str(silent),
        "--draft",
        "--device",
        "cpu",
    ]
    assert cli.run(command) == 0
    assert "the model's words for 'urgency': nothing usable; the form's own word stays\n" in capsys.readouterr().err
    assert [t.suffix for t in TemplateSet.load(path).templates] == ['" Urgency: "', '" Answer: "']


def test_pairs_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text('id\tsentence1\tsentence2\tscore\n1\tsays "a\tb\t4.5\n2\tc\td\t0\n')
    assert read_pairs(path) == Pairs(['says "a', "c"], ["b", "d"], [4.5, 0.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tscore\n", "lack the column 'sentence1' (columns: a, b, score)"),
        ("", "lack the column 'sentence1'"),
        (f"{HEADER}a\tb\t1\n", "two at least"),
        (f"{HEADER}a\tb\t1\n \tb\t1\n", "line 3: a text is blank"),
        (f"{HEADER}a\tb\n", "line 2: score must be a number, found None"),
        (f"{HEADER}a\tb\tnan\n", "line 2: score must be a number, found 'nan'"),
    ],
)
def test_a_wrong_file_of_pairs_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_pairs(path)
    assert message in str(refused.value)


def test_a_missing_file_of_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the pairs .*none\.tsv"):
        read_pairs(tmp_path / "none.tsv")


def test_pairs_without_scipy_name_the_extra_before_anything_is_written(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "mine.yaml"
    pairs.write_text(f"{HEADER}a\tb\t1\nc\td\t2\n")
    command = [
        "templates",
        "new",
        "mine",
        "--meta-task",
        "urgency",
        "--out",
        str(out),
        "--model",
        str(tiny_model_dir),
        "--pairs",
        str(pairs),
    ]
    assert cli.run(command) == 2
    assert "pip install 'metaeol-udf[evaluation]'" in capfd.readouterr().err
    assert not out.exists()


def test_the_score_is_spearmans(tiny_model_dir: Path) -> None:
    pytest.importorskip("scipy")
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("prompteol"), dtype="float32", device="cpu")
    first, second = ["a cat", "a dog", "the river", "music"], ["the cat", "two dogs play", "it rains", "a guitar and a song"]
    pairs = Pairs(first, second, [4.0, 1.0, 2.0, 3.0])
    a, b = encoder.encode(first), encoder.encode(second)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    ranks = [np.argsort(np.argsort(values)) for values in (cosines, np.array(pairs.scores))]  # no ties
    expected = 100 * (1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (4 * 15))
    assert score_pairs(encoder, pairs) == pytest.approx(expected)


def test_scores_that_are_all_the_same_cannot_be_ranked(tiny_model_dir: Path) -> None:
    pytest.importorskip("scipy")
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("prompteol"), dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match="the same score"):
        score_pairs(encoder, Pairs(["a", "b"], ["c", "d"], [1.0, 1.0]))
