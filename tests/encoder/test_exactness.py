"""The fast path equals one prompt at a time without padding, for every architecture, tokenizer, layer, batch and order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.prompts.templates import PromptTemplate
from tests.encoder.oracle import clean_as_paper, one_at_a_time, worst_cosine
from tests.tiny_models import TOKENIZERS, configs

#: The shapes that our own decoder takes.
OURS = ("llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2", "opt", "phi3")
TEXTS = [
    *("a good day", "the people play music by the river and the old guitar is great", "x", 'she said "run"', "is it new?"),
    *("don't {text} stop", "日本語 text", "<|end|> </s> <s>", "  spaces  inside   too ", "word " * 40 + "end", "the old guitar"),
    *("a bad day", "…", "it's ''quoted''"),
]


def encoder(folder: Path, templates: str | TemplateSet = "metaeol", **options: object) -> MetaEOLEncoder:
    chosen = TemplateSet.load(templates) if isinstance(templates, str) else templates
    return MetaEOLEncoder.from_pretrained(str(folder), templates=chosen, **{"dtype": "float32", "device": "cpu", **options})  # type: ignore[arg-type]


def prompts(templates: str) -> list[str]:
    return [template.prompt for template in TemplateSet.load(templates).templates]


@pytest.mark.parametrize("shape", configs())
def test_every_architecture_equals_one_prompt_at_a_time(shape: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(shape)
    ours = encoder(folder)
    assert ours.engine.runner.name == ("decoder" if shape in OURS else "stream")
    assert worst_cosine(ours.encode(TEXTS, per_template=True), one_at_a_time(folder, prompts("metaeol"), TEXTS, -1)) >= 0.99999


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, 0.5, 0.85])
@pytest.mark.parametrize(
    "shape", ["llama", "gpt_neox", *(pytest.param(name, marks=pytest.mark.long) for name in ("gemma3", "gpt2", "opt"))]
)
def test_every_layer_is_the_hidden_state_that_transformers_counts(shape: str, layer: int | float, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(shape)
    index = {0.5: 2, 0.85: 3}.get(layer, layer)
    ours = encoder(folder, "metaeol-fast", layer=layer).encode(TEXTS[:5], per_template=True)
    assert worst_cosine(ours, one_at_a_time(folder, prompts("metaeol-fast"), TEXTS[:5], int(index))) >= 0.99999


@pytest.mark.long
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("templates", ["metaeol", "metaeol-fast", "metaeol-separate", "metaeol-two", "prompteol"])
def test_every_tokenizer_and_template_set_equals_one_prompt_at_a_time(
    tokenizer: str, templates: str, tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model("llama", tokenizer)
    ours = encoder(folder, templates).encode(TEXTS, per_template=True)
    assert worst_cosine(ours, one_at_a_time(folder, prompts(templates), TEXTS, -1)) >= 0.99999


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("shape", ["llama", pytest.param("gpt_neox", marks=pytest.mark.long)])
def test_reversed_texts_are_prompts_of_the_same_words_from_the_last_to_the_first(
    shape: str, tokenizer: str, tiny_model: Callable[..., Path]
) -> None:
    folder, prompt = tiny_model(shape, tokenizer), 'The sentence: "{text}" In one word: "'
    orders = ("as_written", "reversed", "reversed")
    kinds = (prompt, prompt, 'The sentence: "{text}" Its topic: "')
    templates = TemplateSet("both", "paper", tuple(PromptTemplate("any", *each) for each in zip(kinds, orders, strict=True)))
    ours = encoder(folder, templates).encode(TEXTS, per_template=True)
    backwards = []
    for text in TEXTS:
        words = clean_as_paper(text).split()
        backwards.append(" ".join(words[place] for place in range(len(words) - 1, -1, -1)))
    forwards = one_at_a_time(folder, [prompt], TEXTS, -1)
    reverse = one_at_a_time(folder, kinds[1:], backwards, -1, "as it is")
    assert worst_cosine(ours, np.concatenate([forwards, reverse], 1)) >= 0.99999
    assert worst_cosine(ours[:2, :1], ours[:2, 1:2]) < 0.9999  # a text of several words is another text backwards


@pytest.mark.parametrize(
    "prompt", ["{text}", "{text} so", "say {text}", " a {text} b ", "{text}\n\nword:", "{{text}}", '"{text}"', "x{text}y"]
)
@pytest.mark.parametrize("cleanup", ["paper", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_seams_of_any_kind_are_exact(prompt: str, cleanup: str, tokenizer: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama", tokenizer)
    templates = TemplateSet("seams", cleanup, (PromptTemplate("any", prompt), PromptTemplate("any", "the " + prompt + " end")))
    ours = encoder(folder, templates).encode(TEXTS, per_template=True)
    plain = one_at_a_time(folder, [t.prompt for t in templates.templates], TEXTS, -1, cleanup)
    assert worst_cosine(ours, plain) >= 0.99999


@pytest.mark.long
@pytest.mark.parametrize("shape", ["llama", "mistral", "gpt2"])
def test_batch_size_and_order_do_not_change_vectors(shape: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(shape)
    expected = encoder(folder).encode(TEXTS)
    order = np.random.default_rng(3).permutation(len(TEXTS))
    for max_batch_tokens in (1, 37, 100, 100_000):
        shuffled = encoder(folder, max_batch_tokens=max_batch_tokens).encode([TEXTS[i] for i in order])
        assert worst_cosine(shuffled, expected[order]) >= 0.99999


def test_long_texts_are_attended_in_blocks_and_stay_exact(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("mistral")
    texts = ["the river and music " * n for n in (30, 60, 100)]
    ours = encoder(folder, max_tokens=500).encode(texts, per_template=True)
    assert worst_cosine(ours, one_at_a_time(folder, prompts("metaeol"), texts, -1)) >= 0.99999


def test_the_mean_over_templates_is_the_embedding(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"))
    np.testing.assert_allclose(ours.encode(TEXTS), ours.encode(TEXTS, per_template=True).mean(1), atol=1e-5)


@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_common_starts_of_texts_are_computed_once_and_exactly(shape: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(shape)
    line = "the people of the river know that this is good work and go to see it "
    ends = ("a", "the old guitar", "music", "bad", "the old guitar plays")
    texts = [*(line * 2 + end for end in ends), "a short one", line + "x", line + "y day"]
    ours = encoder(folder)
    rows = ours.encode_rows(texts)
    assert worst_cosine(ours.encode(texts, per_template=True), one_at_a_time(folder, prompts("metaeol"), texts, -1)) >= 0.99999
    assert rows.tokens_computed[1:5].max() < rows.tokens_computed[0] / 2


def test_a_stream_of_lists_equals_one_list(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"))
    lists: list[list[str | None]] = [[*TEXTS[:5]], [], [None, " "], [*TEXTS[5:], None]]
    found = list(ours.encode_batches(iter(lists)))
    assert [len(encoded.errors) for encoded in found] == [5, 0, 2, len(TEXTS) - 4]
    assert found[2].errors == ["null_text", "empty_text"]
    together = np.concatenate([found[0].vectors, found[3].vectors[:-1]])
    assert worst_cosine(together, ours.encode(TEXTS)) >= 0.99999


def test_a_gpu_takes_a_common_start_only_where_it_saves_thousands_of_tokens(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"))
    line = "the people of the river know that this is good work and go to see it "

    def n_groups(n_texts: int, device_type: str) -> int:
        texts = [f"{line}{number} and more" for number in range(n_texts)]
        return len(prepare_texts(texts, ours.engine.trie, ours.templates, 512, 1024, True, 1, device_type).groups)

    own = len(ours.engine.trie.groups)
    assert n_groups(20, "cpu") > own
    assert n_groups(20, "cuda") == own
    assert n_groups(600, "cuda") > own
