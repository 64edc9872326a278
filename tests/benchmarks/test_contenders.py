from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.baselines import MeanOfCalls, PublishedLoop, SortedBatches, load_causal_model
from benchmarks.contenders import Contender, all_contenders, pick
from benchmarks.encode import run, spread, tabulate, worst_cosine
from benchmarks.texts import TextSet, cut_texts, load_texts, mixed_texts, short_texts
from metaeol_udf import TemplateSet
from metaeol_udf.encoder.generic.reference import encode_plainly
from metaeol_udf.prompts.tokenizer import PromptTokenizer

TEXTS = ["One.", "A man plays a guitar on a stage in front of many people", 'She said: "no"?', "Rates rose again."] * 5


@pytest.fixture(scope="module")
def causal_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a language-model head, as the published script loads it."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("causal") / "tiny"
    torch.manual_seed(7)
    LlamaForCausalLM(AutoModel.from_pretrained(tiny_model_dir).config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [PublishedLoop, SortedBatches, MeanOfCalls])
def test_a_baseline_computes_what_one_prompt_at_a_time_computes(kind: type[PublishedLoop], causal_dir: Path) -> None:
    templates = TemplateSet.load("metaeol-separate")
    bare = AutoModel.from_pretrained(causal_dir, dtype=torch.float32).eval()
    expected = encode_plainly(bare, PromptTokenizer(AutoTokenizer.from_pretrained(causal_dir)), templates, TEXTS, [2]).mean((1, 2))

    vectors = kind(causal_dir, load_causal_model(causal_dir)).encode(TEXTS, templates)

    assert vectors.shape == expected.shape
    assert worst_cosine(vectors, expected) > 0.99999


def test_the_published_loop_takes_fewer_texts_where_logits_would_not_fit(causal_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = TemplateSet.load("metaeol-separate")
    loop = PublishedLoop(causal_dir, load_causal_model(causal_dir))
    whole = loop.encode(TEXTS, templates)
    monkeypatch.setattr("benchmarks.baselines._MAX_LOGITS_BYTES", 1)
    assert loop._n_fitting(TEXTS, templates) == 1
    assert worst_cosine(loop.encode(TEXTS[:3], templates), whole[:3]) > 0.9999


def test_an_unknown_contender_is_named_with_the_known_ones(causal_dir: Path) -> None:
    with pytest.raises(ValueError, match="no contender fastest; known: all, ours, published, sorted"):
        pick(all_contenders(causal_dir), "sorted,fastest")


@pytest.mark.slow
def test_a_run_measures_all_against_the_published_loop(causal_dir: Path) -> None:
    texts = TextSet("short", list(dict.fromkeys(TEXTS)), np.array([2, 13, 6, 5]))
    contenders = pick(all_contenders(causal_dir), "fp32-separate")

    run(texts, contenders, n_slow=2, n_rounds=2)
    published, ours = tabulate(texts, contenders, causal_dir, n_reference=2)

    assert published["ratio"] == published["ratio_max"] == 1.0
    assert ours["worst_cosine"] > 0.99999
    assert ours["share_of_gemm_rate"] > 0
    assert ours["ratio_min"] <= ours["ratio"] <= ours["ratio_max"]
    # Every text passes eight separate prefixes, and each pass ends with a suffix of at least one token.
    assert ours["tokens_per_text"] >= 8 * (texts.n_tokens.mean() + 1)


def test_a_contender_that_is_slow_gets_texts_of_all_lengths() -> None:
    lengths = np.array([9, 1, 8, 2, 7, 3, 6, 4])
    texts = TextSet("mixed", [str(n) for n in lengths], lengths)
    assert sorted(lengths[texts.sample(4)]) == [2, 4, 7, 9]
    assert list(texts.sample(99)) == list(range(8))


def test_a_ratio_has_its_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"ratio": 2.0, "ratio_min": 1.0, "ratio_max": 3.0}


def test_texts_are_cut_to_a_number_of_tokens_with_and_without_the_corpus(model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for length in (12, 500):
        texts = cut_texts(3, length, tokenizer, tmp_path)  # an empty folder, so docstrings
        assert len(texts) == 3
        for text in texts:
            assert abs(len(tokenizer(text)["input_ids"]) - length) <= 2


def test_without_the_corpus_docstrings_stand_in(model_dir: Path, tmp_path: Path) -> None:
    assert len(set(short_texts(20, tmp_path))) == 20
    assert len(set(mixed_texts(20, AutoTokenizer.from_pretrained(model_dir), tmp_path))) == 20
    with pytest.raises(ValueError, match="texts must be one of short, 12, 30, 100, 500, mixed, found 'long'"):
        load_texts("long", 3, model_dir, tmp_path)


def test_a_contender_starts_unmeasured() -> None:
    contender = Contender("key", "name", "metaeol", lambda _: lambda texts: np.zeros((len(texts), 1), np.float32))
    assert contender.rates == []
    assert contender.encoder is None
