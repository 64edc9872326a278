"""Any decoder LLM that transformers has is exact, by the fastest runner that can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.checkpoint.architectures import DECODER_TYPES
from metaeol_udf.encoder.forward import hf_weights
from metaeol_udf.encoder.generic import own_attention
from metaeol_udf.encoder.generic.fork_pass import ForkPass
from metaeol_udf.errors import ModelFilesError
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.tiny_configs import save_any_tiny_model, tiny_config, tiny_wrapper_config
from tests.tiny_models import configs

TEXTS = [
    *("a good day", "the people play music by the river and the old guitar is great", "x", 'she said "run"', "don't {text} stop"),
    *("日本語 text", "<|end|> </s> <s>", "word " * 40 + "end", "  spaces  inside   too "),
]
LAYERS = (1, 2, -1)

QUICK = (("qwen3_moe", "stream"), ("gpt_oss", "stream"), ("lfm2", "fork"), ("bloom", "fork"))  # in `make test-fast`, too
STREAM = ("cohere2", "gemma4_text", "llama4_text", "deepseek_v3")
MORE_STREAM = ("mixtral", "olmo", "glm", "ernie4_5", "gpt_neox", "starcoder2")
FORK = ("qwen3_next", "granitemoehybrid")
MORE_FORK = ("qwen3_5_text", "falcon_h1", "nemotron_h", "bamba", "gptj")
WHOLE, MORE_WHOLE = ("jamba",), ("mamba2", "recurrent_gemma")


def load(folder: Path, **options: Any) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(
        str(folder), templates=TemplateSet.load("metaeol"), **{"dtype": "float32", "device": "cpu", **options}
    )


def plain(folder: Path, layer: int, texts: list[str] = TEXTS) -> np.ndarray[Any, Any]:
    return one_at_a_time(folder, [template.prompt for template in TemplateSet.load("metaeol").templates], texts, layer)


@pytest.mark.parametrize(
    ("model_type", "runner"),
    [
        *QUICK,
        *(
            pytest.param(name, runner, marks=pytest.mark.long)
            for runner, names in (("stream", STREAM), ("fork", FORK), ("whole", WHOLE))
            for name in names
        ),
        *(
            pytest.param(name, runner, marks=pytest.mark.slow)
            for runner, names in (("stream", MORE_STREAM), ("fork", MORE_FORK), ("whole", MORE_WHOLE))
            for name in names
        ),
    ],
)
def test_every_layer_equals_one_prompt_at_a_time(model_type: str, runner: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(model_type)
    ours = load(folder, layer=LAYERS)
    assert ours.engine.runner.name == runner, ours.engine.reasons
    states = ours.encode_layers(TEXTS)
    for place, layer in enumerate(LAYERS):
        assert worst_cosine(states[:, :, place], plain(folder, layer)) >= 0.99999
    rows = ours.encode_rows(TEXTS)
    share = rows.tokens_computed.sum() / (rows.tokens_computed + rows.tokens_saved).sum()
    assert (share < 0.6) == (runner != "whole")


@pytest.mark.parametrize("layer", [1, 2])
def test_a_state_that_forgets_the_prompts_beginning_shows_in_the_shortest_text(layer: int, tiny_model: Callable[..., Path]) -> None:
    # transformers' Jamba begins anew where several tokens follow its cache. Of one such layer only texts of few tokens tell.
    folder = tiny_model("jamba")
    ours = load(folder, layer=layer)
    assert worst_cosine(ours.encode(TEXTS, per_template=True), plain(folder, layer)) >= 0.99999


@pytest.mark.long
@pytest.mark.parametrize(
    "model_type", ["gpt_oss", "qwen3_next", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_moe", "gemma4_text"))]
)
def test_batches_order_and_common_starts_do_not_change_vectors(model_type: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(model_type)
    line = "the people of the river know that this is good work and go to see it "
    texts = [*TEXTS, *(line * 2 + end for end in ("a", "the old guitar", "music", "bad"))]
    expected = plain(folder, -1, texts).mean(1)
    order = np.random.default_rng(3).permutation(len(texts))
    for max_batch_tokens in (1, 100, 100_000):
        ours = load(folder, max_batch_tokens=max_batch_tokens)
        assert worst_cosine(ours.encode([texts[i] for i in order]), expected[order]) >= 0.99999


@pytest.mark.long
@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen3_next"])
def test_batches_on_two_threads_are_the_same(model_type: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(model_type)
    expected = plain(folder, -1).mean(1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ours = load(folder, max_batch_tokens=64)
        assert ours.batch_runner.n_threads == 2
        assert all(worst_cosine(ours.encode(TEXTS), expected) >= 0.99999 for _ in range(3))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("model_type", "joins"),
    [("lfm2", True), ("bloom", False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in ("qwen3_next", "falcon_h1", "nemotron_h"))],
)
def test_texts_of_one_length_fork_together_whatever_their_prompt(model_type: str, joins: bool, tiny_model: Callable[..., Path]) -> None:
    """`metaeol` has four prefixes; after each text come suffix tokens that two templates share, then two ends."""
    ours = load(tiny_model(model_type))
    runner = ours.engine.runner
    assert isinstance(runner, ForkPass)
    assert runner.joins_groups == joins
    steps: list[tuple[int, ...]] = []
    runner.text_model.model.register_forward_pre_hook(
        lambda _m, _a, inputs: steps.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    texts = ["the river", "old music", "good people"]
    ours.encode(texts)
    # A text and the suffix that its two templates share are one step; the ends differ in length, so they are two.
    assert [rows for rows, _ in steps] == ([12] * 3 if joins else [3] * 12)


@pytest.mark.long
@pytest.mark.parametrize("templates", ["metaeol-fast", "metaeol-separate", "prompteol"])
def test_other_template_sets_fork_as_exactly(templates: str, tiny_model: Callable[..., Path]) -> None:
    folder, chosen = tiny_model("qwen3_next"), TemplateSet.load(templates)
    ours = MetaEOLEncoder.from_pretrained(str(folder), templates=chosen, dtype="float32", device="cpu")
    assert ours.engine.runner.name == "fork"
    expected = one_at_a_time(folder, [template.prompt for template in chosen.templates], TEXTS, -1)
    assert worst_cosine(ours.encode(TEXTS, per_template=True), expected) >= 0.99999


@pytest.mark.parametrize("model_type", ["qwen3_moe", "lfm2"])
def test_layers_above_the_output_layer_do_not_run_and_are_given_up(model_type: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(model_type)
    ours = load(folder, layer=2)
    assert worst_cosine(ours.encode(TEXTS, per_template=True), plain(folder, 2)) >= 0.99999
    layers = ours.engine.runner.text_model.layers  # type: ignore[attr-defined]
    assert [sum(p.numel() for p in layer.parameters()) > 0 for layer in layers] == [True, True, False, False]


@pytest.mark.parametrize(
    "model_type", ["gpt_oss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cohere2", "starcoder2", "gemma4_text"))]
)
def test_after_its_attention_the_last_layer_runs_for_the_outputs_alone(model_type: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(model_type)
    ours = load(folder)
    layers = ours.engine.runner.text_model.layers  # type: ignore[attr-defined]
    tokens = dict.fromkeys((2, 3), 0)
    for index in tokens:

        def count(_module: Any, args: Any, index: int = index) -> None:
            tokens[index] += args[0].shape[1]

        layers[index].mlp.register_forward_pre_hook(count)
    states = ours.encode(TEXTS, per_template=True)
    assert tokens[3] == len(TEXTS) * 8
    assert tokens[2] > 1.5 * tokens[3]
    assert worst_cosine(states, plain(folder, -1)) >= 0.99999


def test_an_encoder_describes_how_it_embeds(tiny_model: Callable[..., Path]) -> None:
    ours = load(tiny_model("qwen3_moe"))
    assert ours.describe()["share_of_tokens"] is None
    ours.encode(TEXTS)
    described = ours.describe()
    assert {name: described[name] for name in ("runner", "device", "dtype", "dim")} == {
        "runner": "stream", "device": "cpu", "dtype": "float32", "dim": 64,
    }  # fmt: skip
    assert described["reasons"] == [f"decoder: architecture 'qwen3_moe' is not one of {', '.join(DECODER_TYPES)}"]
    assert 0.1 < described["share_of_tokens"] < 0.6


def test_a_model_that_only_whole_prompts_run_says_so_once(tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    load(tiny_model("jamba")).encode(TEXTS)
    said = [record.message for record in caplog.records if "runs on whole prompts" in record.message]
    assert len(said) == 1
    assert "stream: the attention of layer 0 does not go through" in said[0]
    assert "fork: its cosine to transformers is" in said[0]


def test_a_runner_that_sees_more_than_a_window_is_refused_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The window is longer than the short texts of the proof: the long one shows it."""
    config = tiny_config("starcoder2")
    config.sliding_window = 200
    folder = save_any_tiny_model(config, tmp_path)
    assert load(folder).engine.runner.name == "stream"
    monkeypatch.setattr(own_attention, "sees_by", lambda rule, device: None)
    assert load(folder, max_tokens=50).engine.runner.name == "stream"  # no prompt is that long
    assert load(folder).engine.runner.name == "fork"
    assert "stream: its cosine to transformers is" in caplog.text


def test_bfloat16_is_compared_with_float32_and_may_lose_as_much_as_transformers(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("mixtral")  # whose experts are chosen otherwise where scores are near: its own bfloat16 is far from float32
    ours = load(folder, dtype="bfloat16")
    assert ours.engine.runner.name == "stream"
    wide = plain(folder, -1)
    prompts = [template.prompt for template in TemplateSet.load("metaeol").templates]
    own = one_at_a_time(folder, prompts, TEXTS, -1, dtype=torch.bfloat16)
    lost, lost_by_transformers = 1 - worst_cosine(ours.encode(TEXTS, per_template=True), wide), 1 - worst_cosine(own, wide)
    assert lost <= 4 * lost_by_transformers + 1e-4


def test_rotary_positions_that_change_with_the_length_are_computed_whole(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config = tiny_config("llama")
    config.rope_parameters, config.max_position_embeddings = rope, 160
    folder = save_any_tiny_model(config, tmp_path)
    assert load(folder, max_tokens=40).engine.runner.name == "stream"
    texts = ["the river and music " * 30, "short"]
    config.max_position_embeddings = 512
    config.rope_parameters = {**rope, "original_max_position_embeddings": 100}
    folder = save_any_tiny_model(config, tmp_path / "switching")
    ours = load(folder, max_tokens=200)
    assert ours.engine.runner.name == "whole"
    assert "rotary positions change with the length" in ours.engine.reasons[1]
    assert worst_cosine(ours.encode(texts, per_template=True), plain(folder, -1, texts)) >= 0.99999


@pytest.mark.long
@pytest.mark.parametrize(
    "wrapper", ["gemma3", "llama4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral3", "qwen3_vl", "qwen3_5", "gemma4"))]
)
def test_the_text_model_of_a_model_that_sees_is_used_alone(wrapper: str, tmp_path: Path) -> None:
    folder = save_any_tiny_model(tiny_wrapper_config(wrapper), tmp_path)
    ours = load(folder, layer=LAYERS)
    assert ours.engine.runner.name == {"gemma3": "decoder", "mistral3": "decoder", "qwen3_5": "fork"}.get(wrapper, "stream")
    states = ours.encode_layers(TEXTS)
    for place, layer in enumerate(LAYERS):
        assert worst_cosine(states[:, :, place], plain(folder, layer)) >= 0.99999
    names = [name for module in [getattr(ours.engine.runner, "text_model", None)] if module for name, _ in module.model.named_modules()]
    assert not [name for name in names if "vision" in name or "visual" in name]


def test_a_model_that_transformers_itself_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    config = tiny_config("deepseek_v2")
    config.num_experts_per_tok = None
    with pytest.raises(ModelFilesError, match=r"transformers cannot run the model in .*: TypeError"):
        load(save_any_tiny_model(config, tmp_path))


def test_hidden_states_of_another_form_are_refused_by_name(tiny_model: Callable[..., Path]) -> None:
    for layer in (2, -1):
        with pytest.raises(ModelFilesError, match=r"hidden states of a gemma3n_text at layer \d have shape .*, which is no vector of 64"):
            load(tiny_model("gemma3n_text"), layer=layer)


def test_a_known_family_with_a_setting_that_no_builder_reads_is_not_for_the_decoder(tmp_path: Path) -> None:
    for shape in configs().values():
        assert shape.model_type not in DECODER_TYPES or hf_weights.unread_settings(shape) == []
    config = configs()["opt"]
    config.layer_norm_elementwise_affine = False
    assert hf_weights.unread_settings(config) == ["layer_norm_elementwise_affine"]
    ours = load(save_any_tiny_model(config, tmp_path))
    assert ours.engine.runner.name != "decoder"
    assert ours.engine.reasons[0] == "decoder: this opt sets layer_norm_elementwise_affine, which the decoder does not know"
    assert worst_cosine(ours.encode(TEXTS, per_template=True), plain(tmp_path, -1)) >= 0.99999
    bidirectional = configs()["gemma3"]
    bidirectional.use_bidirectional_attention = True
    assert hf_weights.unread_settings(bidirectional) == ["use_bidirectional_attention"]
