from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from benchmarks import methods, wordings
from benchmarks.method_passes import PLACEHOLDER, MethodPasses, Prepending, Rule, Steering
from benchmarks.method_prompts import placeholder_ids, prepended_tokens, prompt_ids, shared_tokens, whole_tokens
from benchmarks.sts_pairs import load_pairs, spearman
from metaeol_udf import TemplateSet
from metaeol_udf.prompts import PromptTemplate
from metaeol_udf.prompts.tokenizer import PromptTokenizer

LAYERS = [0, 1, 3, 4, 5]
PROMPTS = [[5, 6, PLACEHOLDER, 7, 8, 9], [5, 6, PLACEHOLDER, 10, 11], [5, 6, PLACEHOLDER, 12, 13, 14], [5, PLACEHOLDER, 15, 16, 17, 18]]
PLAIN = [[id for id in ids if id != PLACEHOLDER] for ids in PROMPTS]
OTHER = [[20, *ids, 21] for ids in PLAIN]
TEXTS = ["A man plays a guitar.", "Rates rose again, and nobody knows why", 'She said "no"?', "x"]


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    """Five blocks whose weights are large enough for attention to matter."""
    torch.manual_seed(3)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "max_position_embeddings": 64}
    model = LlamaModel(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return model


def attend(block: Any, h: Tensor, theta: float = 10_000.0) -> Tensor:
    """Attention of one block over one sequence, by hand: concatenated heads before the output projection, shape (n, 32)."""
    x = block.input_layernorm(h)
    n, dim, part = len(h), 8, block.self_attn
    q, k, v = (f(x).view(n, -1, dim) for f in (part.q_proj, part.k_proj, part.v_proj))
    angles = torch.arange(n)[:, None] / theta ** (torch.arange(0, dim, 2) / dim)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def rotate(y: Tensor) -> Tensor:
        a, b = y[..., : dim // 2], y[..., dim // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    q, k = rotate(q), rotate(k)
    heads = []
    for head in range(4):
        weights = torch.full((n, n), -torch.inf)
        for i in range(n):
            for j in range(i + 1):
                weights[i, j] = q[i, head] @ k[j, head // 2] / dim**0.5
        heads.append(weights.softmax(1) @ v[:, head // 2])
    return torch.cat(heads, 1)


def finish(block: Any, h: Tensor, attended: Tensor) -> Tensor:
    h = h + block.self_attn.o_proj(attended)
    return h + block.mlp(block.post_attention_layernorm(h))


def kept(model: LlamaModel, states: list[Tensor]) -> Tensor:
    states[-1] = model.norm(states[-1])
    return torch.stack([states[layer][-1] for layer in LAYERS])


def prepend_by_hand(model: LlamaModel, ids: list[int], start: int, stop: int, vector: Tensor) -> Tensor:
    at = ids.index(PLACEHOLDER)
    h = torch.stack([vector if id == PLACEHOLDER else model.embed_tokens.weight[id] for id in ids])
    states = [h]
    for number, block in enumerate(model.layers):
        if start <= number < stop:
            h = torch.cat([h[:at], h[-1:], h[at + 1 :]])  # what the last token was after the block before
        h = finish(block, h, attend(block, h))
        states.append(h)
    return kept(model, states)


def steer_by_hand(model: LlamaModel, ids: list[int], auxiliary: list[int], at: int, replace: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    u = model.embed_tokens.weight[auxiliary]
    for block in model.layers[:at]:
        u = finish(block, u, attend(block, u))
    u = attend(model.layers[at], u)[-1]
    h = model.embed_tokens.weight[ids]
    states = [h]
    for number, block in enumerate(model.layers):
        attended = attend(block, h)
        if number == at:
            attended = torch.cat([attended[:-1], replace(attended[-1], u)[None]])
        h = finish(block, h, attended)
        states.append(h)
    return kept(model, states)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, 3), (1, 5), (3, 4)])
@torch.inference_mode()
def test_prepending_puts_the_last_tokens_state_in_front_of_the_text_before_each_block_of_a_range(
    start: int, stop: int, model: LlamaModel
) -> None:
    passes = MethodPasses(model, LAYERS)
    expected = torch.stack([prepend_by_hand(model, ids, start, stop, passes.placeholder) for ids in PROMPTS])
    found = passes.prepended(PROMPTS, Prepending(start, stop))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - passes.prepended(PROMPTS, Prepending(start, start)))[:, -1].abs().max() > 0.01


@torch.inference_mode()
def test_prepending_in_no_block_leaves_the_prompt_with_its_placeholder_as_it_is(model: LlamaModel) -> None:
    passes = MethodPasses(model, LAYERS)
    none = passes.prepended(PROMPTS, Prepending(2, 2))
    assert torch.equal(none, passes.plain(PROMPTS))
    torch.testing.assert_close(none[1], prepend_by_hand(model, PROMPTS[1], 0, 0, passes.placeholder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", [0, 2, 4])
@torch.inference_mode()
def test_steering_replaces_what_the_last_tokens_attention_gave_in_one_block(block: int, model: LlamaModel) -> None:
    passes = MethodPasses(model, LAYERS)
    ways = [Steering(block, Rule.SCALED, 0.5), Steering(block, Rule.RESTORED), Steering(block, Rule.SHRUNK, 0.25)]
    u = passes.attention_outputs(OTHER, [block])[:, 0]
    found = passes.steered(PLAIN, [u] * 3, ways)
    rules: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda v, u: 0.5 * (v - u),
        lambda v, u: (v - u) / (v - u).square().sum().sqrt() * v.square().sum().sqrt(),
        lambda v, u: v / 4,
    ]
    for steered, rule in zip(found, rules, strict=True):
        expected = torch.stack([steer_by_hand(model, ids, other, block, rule) for ids, other in zip(PLAIN, OTHER, strict=True)])
        torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_steering_changes_nothing_before_its_block_and_nothing_at_all_with_factor_one_and_no_auxiliary_prompt(model: LlamaModel) -> None:
    passes = MethodPasses(model, LAYERS)
    plain = passes.plain(PLAIN)
    u = passes.attention_outputs(OTHER, [3])[:, 0]
    contrasted, same = passes.steered(PLAIN, [u, u], [Steering(3, Rule.SCALED), Steering(3, Rule.SHRUNK, 1.0)])
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(contrasted[:, :3], plain[:, :3], atol=1e-4, rtol=1e-4)  # hidden states 0, 1 and 3
    assert (contrasted - plain)[:, 3].abs().amax(1).min() > 0.01


@torch.inference_mode()
def test_an_auxiliary_prompt_that_is_the_prompt_itself_leaves_no_attention_output_at_all(model: LlamaModel) -> None:
    passes = MethodPasses(model, LAYERS)
    values = torch.stack([_values_by_hand(model, ids, 1) for ids in PLAIN])
    zero = passes.steered(PLAIN, [values], [Steering(1, Rule.SHRUNK, 0.0)])
    found = passes.steered(PLAIN, [values], [Steering(1, Rule.SCALED, 0.5)])
    torch.testing.assert_close(found, zero, atol=1e-4, rtol=1e-4)
    assert Steering(1, Rule.RESTORED).apply(values, values).count_nonzero() == 0


def _values_by_hand(model: LlamaModel, ids: list[int], at: int) -> Tensor:
    h = model.embed_tokens.weight[ids]
    for block in model.layers[:at]:
        h = finish(block, h, attend(block, h))
    return attend(model.layers[at], h)[-1]


def test_reading_attention_outputs_leaves_the_model_whole(model: LlamaModel) -> None:
    passes = MethodPasses(model, LAYERS)
    before = passes.plain(PLAIN)
    passes.attention_outputs(OTHER, [0, 1])
    assert len(model.layers) == 5
    assert torch.equal(passes.plain(PLAIN), before)


def test_a_layer_that_is_not_there_is_named(model: LlamaModel) -> None:
    assert MethodPasses(model, [-1, 2]).layers == [5, 2]
    with pytest.raises(ValueError, match=r"found \[6\]"):
        MethodPasses(model, [6])


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> PromptTokenizer:
    return PromptTokenizer(AutoTokenizer.from_pretrained(tiny_model_dir))


@pytest.mark.parametrize("name", ["prompteol", "metaeol", "metaeol-fast"])
def test_a_placeholder_comes_on_top_of_the_prompts_own_tokens(name: str, tokenizer: PromptTokenizer) -> None:
    templates = TemplateSet.load(name)
    plain, placed = prompt_ids(templates, tokenizer, TEXTS), placeholder_ids(templates, tokenizer, TEXTS)
    assert [[[id for id in ids if id != PLACEHOLDER] for ids in of_template] for of_template in placed] == plain
    assert {ids.count(PLACEHOLDER) for of_template in placed for ids in of_template} == {1}


def test_a_template_without_a_quote_has_no_place_for_a_placeholder(tokenizer: PromptTokenizer) -> None:
    templates = TemplateSet("bare", "paper", (PromptTemplate("x", "In one word, {text} is"),))
    with pytest.raises(ValueError, match="a placeholder needs a prefix"):
        placeholder_ids(templates, tokenizer, TEXTS)


def test_tokens_are_counted_with_heads_and_texts_shared_or_not() -> None:
    # Two templates with the head 1 2 and different tails, two texts: 7 and 8 9.
    prompts = [[[1, 2, 7, 3, 4], [1, 2, 8, 9, 3, 4]], [[1, 2, 7, 3, 5], [1, 2, 8, 9, 3, 5]]]
    assert shared_tokens(prompts) == ((1 + 1 + 2) + (2 + 1 + 2)) / 2
    assert whole_tokens(prompts) == (10 + 12) / 2
    placed = [[[1, 2, PLACEHOLDER, *ids[2:]] for ids in of_template] for of_template in prompts]
    assert prepended_tokens(placed) == (2 * 4 + 2 * 5) / 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(5)
    words = ["river", "guitar", "music", "good", "bad", "new", "old", "small", "read", "write"]
    folder = tmp_path_factory.mktemp("data")
    (folder / "sts").mkdir()
    for name in ("one", "two"):
        lines = ["subset\tsentence1\tsentence2\tscore"]
        lines += [f"s\t{' '.join(rng.choices(words, k=4))}\t{' '.join(rng.choices(words, k=5))}\t{rng.randint(0, 5)}" for _ in range(30)]
        with gzip.open(folder / "sts" / f"{name}.tsv.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return folder


def test_pairs_are_the_same_each_time_and_parameters_see_the_first_half_only(data: Path) -> None:
    sample, again = load_pairs(data, ["one", "two"], 20), load_pairs(data, ["one", "two"], 20)
    assert sample.texts == again.texts
    assert [len(pairs.scores) for pairs in sample.sets] == [20, 20]
    vectors = np.random.default_rng(1).normal(size=(len(sample.texts), 6)).astype(np.float32)
    similarities = sample.similarities(vectors, subtracts_mean=True)
    first = {name: values.copy() for name, values in similarities.items()}
    for pairs in sample.sets:
        first[pairs.name][pairs.n_choosing :] = 0.5 + np.arange(10)
    assert sample.choosing_score(first) == sample.choosing_score(similarities)
    seen = np.concatenate([pairs.texts[:10].ravel() for pairs in sample.sets])
    changed = vectors.copy()
    changed[[i for i in range(len(vectors)) if i not in seen]] = 7.0
    assert sample.choosing_score(sample.similarities(changed, True)) == pytest.approx(sample.choosing_score(similarities))
    low, high = sample.gain(similarities, similarities)
    assert low == high == 0.0


def test_spearman_shares_the_ranks_of_ties() -> None:
    gold = np.array([1.0, 2.0, 2.0, 4.0])
    assert spearman(np.array([0.1, 0.3, 0.3, 0.9]), gold) == pytest.approx(100.0)
    # Ranks 1 2.5 2.5 4 against 4 3 2 1: covariance -4.5, variances 4.5 and 5.
    assert spearman(np.array([0.9, 0.5, 0.4, 0.1]), gold) == pytest.approx(-4.5 / (4.5 * 5.0) ** 0.5 * 100)


def test_methods_prints_a_row_a_method_and_keeps_every_cell(
    data: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--model",
        str(tiny_model_dir),
        "--data",
        str(data),
        "--sets",
        "one,two",
        "--pairs",
        "12",
        "--layers",
        "1",
        "--dtype",
        "float32",
    ]
    own = ["--templates", "prompteol,metaeol", "--ranges", "0-1,1-2", "--blocks", "0,1", "--factors", "0.5", "--auxiliary", "form"]
    monkeypatch.setattr(sys, "argv", ["methods", *common, *own, "--json", str(tmp_path / "m.json")])
    methods.main()
    found = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in found["rows"][:5]] == ["plain", "plain", "prepending", "steering", "attention shrunk"]
    assert len(found["rows"]) == 10
    n_candidates = 1 + 2 + 2 * 2 + 2
    assert len(found["cells"]) == 2 * n_candidates * 2 * 2  # sets, candidates, layers, with and without the mean
    assert "| prompteol | plain |" in capsys.readouterr().out


def test_wordings_prints_every_prompt_and_the_best_means_of_two(
    data: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(tiny_model_dir), "--data", str(data), "--sets", "one", "--pairs", "10", "--layers", "1", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", ["wordings", *common, "--templates", "prompteol", "--json", str(tmp_path / "w.json")])
    wordings.main()
    found = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))
    assert len(found["rows"]) == 1 + len(wordings.STEPS) + len(wordings.KNOWLEDGE) + 3
    assert len(found["cells"]) == 1 + len(wordings.STEPS) + len(wordings.KNOWLEDGE) + len(wordings.STEPS) * len(wordings.KNOWLEDGE)
    assert "mean of two" in capsys.readouterr().out
