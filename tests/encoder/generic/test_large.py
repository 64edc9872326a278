"""Models on transformers' own layers that are large for their GPUs: weights in few bits, layers over several devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import large_model, loading
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.checkpoint.hf_loading import load_hf_model
from metaeol_udf.encoder.generic.few_bits import quantize_modules
from metaeol_udf.encoder.generic.fork_pass import ForkPass
from metaeol_udf.encoder.generic.placement import count_module_bytes
from metaeol_udf.encoder.generic.reference import encode_plainly
from metaeol_udf.encoder.generic.sequence_pass import SequencePass
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.errors import ConfigError, EnvironmentFault
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.tiny_configs import random_model, tiny_config
from tests.tiny_models import byte_level

TEXTS = ["a good day", "the people play music by the river and the old guitar is great", "x", 'she said "run"']
TEMPLATES = TemplateSet.load("metaeol")
PROBES = ("A short text to check with.", 'Ein zweiter, etwas längerer Text: "quoted", with 12 numbers (and brackets)?')  # of the proof
CPU, META = torch.device("cpu"), torch.device("meta")


def load(folder: Path, **options: Any) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(str(folder), templates=TEMPLATES, dtype="float32", device="cpu", **options)


def plain(folder: Path, texts: list[str] = TEXTS) -> np.ndarray[Any, Any]:
    return one_at_a_time(folder, [template.prompt for template in TEMPLATES.templates], texts, -1)


def room_for(layers: float, model_type: str, quantization: str | None = None) -> int:
    """Bytes of so many layers of a tiny model."""
    layer = random_model(tiny_config(model_type)).layers[0]
    if quantization is not None:
        quantize_modules(layer, quantization)
    return int(layers * count_module_bytes([layer]))


@pytest.mark.parametrize(
    ("model_type", "runner", "quantization", "least"),
    [
        ("qwen3_moe", "stream", "int8", 0.99),
        pytest.param("cohere2", "stream", "int8", 0.99, marks=pytest.mark.slow),
        pytest.param("gpt_neox", "stream", "int4", 0.9, marks=pytest.mark.slow),
        pytest.param("gpt_neox", "stream", "fp8", 0.99, marks=pytest.mark.slow),
        pytest.param("lfm2", "fork", "int8", 0.99, marks=pytest.mark.slow),
    ],
)
def test_a_model_without_a_decoder_of_ours_embeds_alike_in_few_bits(
    model_type: str, runner: str, quantization: str, least: float, tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model(model_type)
    ours = load(folder, quantization=quantization)
    assert ours.engine.runner.name == runner, ours.engine.reasons
    states, expected = ours.encode(TEXTS, per_template=True), plain(folder)
    cosines = [worst_cosine(a, b) for a, b in zip(states.reshape(-1, 1, 64), expected.reshape(-1, 1, 64), strict=True)]
    assert least <= np.median(cosines) < 0.9999999  # single states differ more where another expert is chosen
    whole = load_hf_model(folder, torch.float32)
    taken = count_module_bytes(ours.engine.runner.text_model.layers) / count_module_bytes(whole.layers)  # type: ignore[attr-defined]
    assert taken < 0.35  # of 32 bits, with scales for rows that are short in a tiny model


@pytest.mark.parametrize("model_type", ["gpt_oss", "mixtral"])
def test_stacked_experts_are_close_and_small_and_several_threads_run_them(model_type: str) -> None:
    layer = random_model(tiny_config(model_type)).layers[1]
    quantized = copy.deepcopy(layer)
    quantize_modules(quantized, "int8")
    experts, ours = layer.mlp.experts, quantized.mlp.experts
    assert isinstance(ours, type(experts))
    assert count_module_bytes([ours]) < 0.35 * count_module_bytes([experts])
    x, chosen = torch.randn(40, 64), torch.randint(0, 4, (40, 2))
    expected = experts(x, chosen, torch.rand(40, 2, generator=torch.Generator().manual_seed(1)))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: ours(x, chosen, torch.rand(40, 2, generator=torch.Generator().manual_seed(1))), range(8)))
    assert all(worst_cosine(one.numpy(), expected.numpy()) >= 0.999 for one in found)
    assert torch.equal(
        layer.mlp.router.weight if model_type == "gpt_oss" else layer.mlp.gate.weight,
        next(tensor for name, tensor in quantized.mlp.named_parameters() if name in ("router.weight", "gate.weight")),
    )  # what chooses experts is not rounded
    torch.testing.assert_close(ours.gate_up_proj, experts.gate_up_proj, rtol=0.0, atol=0.02)


@pytest.mark.parametrize("spread", [pytest.param(1.0, marks=pytest.mark.slow), 0.25])
def test_int8_on_experts_loses_what_the_rounding_of_weights_costs_and_no_more(spread: float, tmp_path: Path) -> None:
    """The runner equals transformers' own loop over the same rounded weights; what it is refused for is what that loop loses, too."""
    model = random_model(tiny_config("gpt_oss"))
    for name, parameter in model.named_parameters():
        parameter.data *= spread if parameter.dim() > 1 and "embed" not in name else 1.0
    model.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level()).save_pretrained(tmp_path)
    whole = load(tmp_path)
    tokenizer, trie = whole.engine.trie.tokenizer, whole.engine.trie
    rounded = load_hf_model(tmp_path, torch.float32)
    for layer in rounded.layers:
        quantize_modules(layer, "int8")
    own = encode_plainly(rounded, tokenizer, TEMPLATES, list(PROBES), [4])[:, :, 0]
    object.__setattr__(whole.engine, "runner", SequencePass(TextModel(rounded, (4,)), trie.groups))
    whole.batch_runner = BatchRunner(whole.engine, 1024)
    assert worst_cosine(whole.encode(list(PROBES), per_template=True), own) >= 0.99999
    expected = plain(tmp_path, list(PROBES))
    cosines = [worst_cosine(a, b) for a, b in zip(own.reshape(-1, 1, 64), expected.reshape(-1, 1, 64), strict=True)]
    if spread == 1.0:  # far from any trained model: a rounding of the last bit changes much
        assert np.median(cosines) < 0.99
        with pytest.raises(ConfigError, match=r"'int8', which .* cannot use: .*stream: its cosine to transformers is"):
            load(tmp_path, quantization="int8")
    else:  # one state of sixteen chose another expert
        assert np.median(cosines) > 0.9999
        assert 0.96 < min(cosines) < 0.99
        assert load(tmp_path, quantization="int8").engine.runner.name == "stream"


def test_weights_that_few_bits_do_not_reach_are_refused() -> None:
    layer = random_model(tiny_config("qwen3_moe")).layers[0]
    with pytest.raises(TypeError, match="fp8 does not know the weights of a Qwen3MoeExperts"):
        quantize_modules(layer, "fp8")
    odd = torch.nn.Module()
    odd.matrix, odd.linear = torch.nn.Parameter(torch.zeros(64, 64)), torch.nn.Linear(64, 32)
    with pytest.raises(TypeError, match=r"int8 reaches 3[0-9]% of a Module's weights"):
        quantize_modules(odd, "int8")


@pytest.mark.parametrize(
    ("model_type", "kind", "quantization"),
    [
        ("qwen3", SequencePass, None),
        ("gemma4_text", SequencePass, None),
        ("gemma4_text", SequencePass, "int8"),
        ("cohere2", SequencePass, "int4"),
        ("lfm2", ForkPass, None),
        ("lfm2", ForkPass, "int8"),
    ],
)
def test_layers_on_a_second_device_get_all_they_need_there(
    model_type: str, kind: type[SequencePass] | type[ForkPass], quantization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's `meta` stands for a second GPU: it computes no numbers, and refuses tensors of another device as a GPU does."""
    model = random_model(tiny_config(model_type))
    one = room_for(1, model_type, quantization)
    rooms = {CPU: count_module_bytes([model]) - count_module_bytes(model.layers) + int(1.5 * one), META: 10**9}
    monkeypatch.setattr(large_model, "room_for_weights", rooms.__getitem__)
    large_model.settle_model(model, 3, quantization, [CPU, META])
    tensors = [[*layer.parameters(), *layer.buffers()] for layer in model.layers[:3]]
    assert [{tensor.device for tensor in of_layer} for of_layer in tensors] == [{CPU}, {META}, {META}]
    assert any(tensor.dtype in (torch.int8, torch.uint8) for tensor in tensors[0]) == (quantization is not None)
    assert count_module_bytes(model.layers[3:]) == 0
    tokenizer = PromptTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level()))
    trie = PromptTrie(TEMPLATES, tokenizer)
    runner = kind(TextModel(model, (1, 3)), trie.groups)
    prepared = prepare_texts(TEXTS, trie, TEMPLATES, max_tokens=100, max_batch_tokens=1024, shares_starts=True)
    runner.use_groups(prepared.groups)
    for batch in prepared.batches:
        for cell, states in zip(batch, runner.run(batch, prepared.text_ids), strict=True):
            assert (states.device, states.shape[0], states.shape[2]) == (META, len(cell.rows), 2 * 64)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_model_larger_than_one_device_is_split_and_says_so_where_it_fits_none(
    quantization: str | None, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("qwen3_moe")
    expected = plain(folder) if quantization is None else load(folder, quantization=quantization).encode(TEXTS, per_template=True)
    room = 4 * 1024 * 64 + room_for(2.5, "qwen3_moe", quantization)
    devices = [torch.device("cpu", 0), torch.device("cpu", 1)]  # to torch both are the CPU, so moves are made and change nothing
    placed: list[list[torch.device]] = []
    keep = large_model.place_layers
    monkeypatch.setattr(
        large_model, "place_layers", lambda model, layers, of, outside: (placed.append([*of]), keep(model, layers, of, outside))
    )
    monkeypatch.setattr(loading, "choose_devices", lambda name: devices)
    monkeypatch.setattr(loading, "fits_device", lambda model, device: False)
    monkeypatch.setattr(large_model, "room_for_weights", lambda device: room)
    ours = load(folder, quantization=quantization)
    assert ours.engine.runner.name == "stream"
    assert placed == [[devices[0]] * 2 + [devices[1]] * 2]
    assert worst_cosine(ours.encode(TEXTS, per_template=True), expected) >= 0.99999
    monkeypatch.setattr(large_model, "room_for_weights", lambda device: room // 2)
    with pytest.raises(EnvironmentFault, match=r"lease more GPUs to a task .* or set embedding.quantization"):
        load(folder, quantization=quantization)
