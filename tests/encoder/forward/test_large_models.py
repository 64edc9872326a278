"""Models that are large for their GPUs: layers over several devices, weights in few bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention as flex_module

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.config import parse_config
from metaeol_udf.encoder import decoder_pass, loading
from metaeol_udf.encoder.checkpoint.architectures import check_quantization
from metaeol_udf.encoder.checkpoint.hf_loading import load_hf_model
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Linear
from metaeol_udf.encoder.forward.hf_weights import build_decoder
from metaeol_udf.encoder.forward.quantization import Float8Linear, QuantizedLinear, quantize, quantize_linear, to_float8
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.device_map import count_bytes, fill_devices, find_stages, place
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.errors import ConfigError, EnvironmentFault
from tests.encoder.gpu.test_packed_batch import LOGS, both, load
from tests.encoder.oracle import worst_cosine
from tests.encoder.test_exactness import TEXTS

pytestmark = pytest.mark.long


def on_two(decoder: Decoder) -> Callable[[Layer], torch.device]:
    """Pretends that the last layers stand on a second device; to torch both are the CPU, so moves are made and change nothing."""
    late = {id(layer) for layer in decoder.layers[2:]}
    return lambda layer: torch.device("cpu", 1 if id(layer) in late else 0)


@pytest.mark.parametrize("as_streams", [False, True], ids=["cells", "streams"])
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "olmo3"])
def test_a_decoder_over_two_devices_equals_one(
    shape: str, as_streams: bool, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    encoder = load(tiny_model(shape), "metaeol")
    decoder = encoder.engine.runner.decoder
    split = PackedPass(decoder, encoder.engine.trie.groups, least_full=0.0, where=on_two(decoder))
    assert [(stage.device.index, list(stage.layers)) for stage in split.stages] == [(0, [0, 1]), (1, [2, 3])]
    if as_streams:
        split.set_batch_tokens(512)
    moved: list[torch.device] = []
    carry = split.carry_to_layer
    monkeypatch.setattr(split, "carry_to_layer", lambda index, x, batch: (moved.append(index), carry(index, x, batch))[1])
    cells, ours = both(encoder, split, [*TEXTS, *LOGS])
    assert worst_cosine(ours, cells) >= 0.99999
    assert moved


def test_layers_fill_as_few_devices_as_hold_them() -> None:
    assert fill_devices([3, 3, 3, 3], [100, 100]) == [0, 0, 0, 0]
    assert fill_devices([3, 3, 3, 3], [7, 7]) == [0, 0, 1, 1]
    assert fill_devices([3, 3, 3, 3], [2, 7, 6]) == [1, 1, 2, 2]
    with pytest.raises(EnvironmentFault, match=r"lease more GPUs to a task .* or set embedding.quantization"):
        fill_devices([3, 3, 3, 3], [7, 5])


def test_placing_moves_every_tensor_and_loses_none(tiny_model: Callable[..., Path]) -> None:
    decoder = load(tiny_model("gemma3"), "metaeol").engine.runner.decoder
    plain = dataclasses.replace(decoder, layers=[decoder.layers[-1]] * 4)  # the last layer is the one that is not packed
    size = count_bytes(plain.layers[0])
    outside = count_bytes((plain.token_table, plain.position_table, plain.ropes))
    placed = place(plain, [torch.device("meta"), torch.device("cpu")], [outside + 2 * size, 2 * size])
    assert [stage.device.type for stage in find_stages(placed)] == ["meta", "cpu"]
    assert {placed.token_table.device.type, placed.ropes[0].device.type} == {"meta"}
    assert placed.final_norm is not None
    assert placed.final_norm.weight.device.type == "cpu"
    assert count_bytes(placed.layers) == 4 * size


@pytest.mark.parametrize(("gib", "recorded", "least_full"), [(1, True, 0.0), (5, False, 0.75)])
def test_a_small_model_packs_its_last_batch_too_and_a_large_one_saves_the_padding(
    gib: int, recorded: bool, least_full: float, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(tiny_model("llama"), "metaeol")
    decoder = encoder.engine.runner.decoder
    on_gpu = SimpleNamespace(token_table=SimpleNamespace(device=torch.device("cuda", 0)), layers=decoder.layers)
    monkeypatch.setattr(decoder_pass, "count_bytes", lambda layers: gib * 2**30)
    monkeypatch.setattr(decoder_pass, "PackedPass", lambda _decoder, *groups, **settings: PackedPass(decoder, *groups, **settings))
    chosen = decoder_pass.run_on_its_device(on_gpu, encoder.engine.trie.groups)  # type: ignore[arg-type]  # what it looks at
    assert isinstance(chosen, PackedPass)
    assert (chosen.graphs is not None, chosen.least_full) == (recorded, least_full)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_model_larger_than_one_gpu_is_loaded_layer_by_layer_onto_several(
    quantization: str | None, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the copy itself: torch's `meta` refuses what a GPU refuses."""
    encoder = load(tiny_model("llama"), "metaeol")
    spec, trie = dataclasses.replace(encoder.spec, quantization=quantization), encoder.engine.trie
    model = load_hf_model(Path(encoder.spec.model), torch.bfloat16)
    made: list[Decoder] = []
    monkeypatch.setattr(decoder_pass, "run_on_its_device", lambda decoder, groups, layers: made.append(decoder))
    monkeypatch.setattr(decoder_pass, "room_for_weights", lambda device: 10**9)
    decoder_pass.make_decoder_pass(model, spec, trie, (4,), [torch.device("meta"), torch.device("meta", 1)])
    assert [stage.device.type for stage in find_stages(made[0])] == ["meta"]
    assert made[0].token_table.device.type == "meta"


@pytest.mark.parametrize(("kind", "bits", "least"), [("int8", 8, 0.9999), ("int4", 4, 0.99), ("fp8", 8, 0.998)])
def test_a_quantized_linear_layer_is_close_and_small(kind: str, bits: int, least: float, tiny_model: Callable[..., Path]) -> None:
    decoder = load(tiny_model("llama"), "metaeol").engine.runner.decoder
    torch.manual_seed(3)
    layer = dataclasses.replace(decoder.layers[-1], qkv=Linear(torch.randn(96, 256), torch.randn(96)))
    quantized = quantize(layer, kind).qkv
    assert isinstance(quantized, (QuantizedLinear, Float8Linear))
    assert quantized.weight.numel() * quantized.weight.element_size() * 8 == 96 * 256 * bits
    x = torch.randn(50, 256)
    assert worst_cosine(quantized(x).numpy(), layer.qkv(x).numpy()) >= least
    torch.testing.assert_close(quantized.rows(10, 40)(x), quantized(x)[:, 10:40])


def test_large_results_stay_in_the_range_of_float16() -> None:
    linear = Linear(torch.full((4, 64), 1e-3, dtype=torch.float16))
    x = torch.full((2, 64), 100.0, dtype=torch.float16)  # 64 products of 100 steps of 127 would be 812,800
    torch.testing.assert_close(quantize_linear(linear, "int8")(x), linear(x), rtol=0.01, atol=0.0)


def test_zero_rows_stay_zero() -> None:
    for kind in ("int8", "int4", "fp8"):
        assert not quantize_linear(Linear(torch.zeros(16, 64)), kind)(torch.ones(2, 64)).any()


def test_float8_holds_the_largest_number_of_a_row_and_rounds_the_others_to_four_bits() -> None:
    x = torch.randn(20, 64) * torch.logspace(-20, 20, 20)[:, None]
    rounded, scale = to_float8(x)
    back = rounded.float() * scale
    largest = x.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(back.gather(1, largest), x.gather(1, largest))
    normal = x.abs() >= x.abs().amax(1, keepdim=True) * 2**-14
    assert float(((back - x).abs() / x.abs())[normal].max()) <= 1 / 16


def test_float8_is_asked_of_a_gpu_as_its_kernel_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as shapes, layouts and dtypes go: torch checks them on a GPU that is not there."""
    with FakeTensorMode():
        weight, scale = torch.empty(96, 64, dtype=torch.float8_e4m3fn, device="cuda"), torch.empty(96, 1, device="cuda")
        linear = Float8Linear(weight, torch.empty(96, dtype=torch.bfloat16, device="cuda"), scale=scale)
        out = linear.rows(32, 96)(torch.empty(7, 64, dtype=torch.bfloat16, device="cuda"))
    assert (tuple(out.shape), out.dtype, out.device.type) == ((7, 64), torch.bfloat16, "cuda")


def test_a_gpu_without_float8_is_refused_before_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(loading, "choose_devices", lambda name: [torch.device("cuda", 0)])
    spec = EmbeddingSpec(model="nowhere", quantization="fp8")
    with pytest.raises(EnvironmentFault, match=r"embedding.quantization is 'fp8', and NVIDIA A100 does not multiply .* to null"):
        loading.load_engine(spec, TemplateSet.load("metaeol"), "auto")


def test_layers_that_float8_cannot_hold_are_refused_with_the_setting(tiny_model: Callable[..., Path]) -> None:
    layer = load(tiny_model("llama"), "metaeol").engine.runner.decoder.layers[-1]
    with pytest.raises(TypeError, match="fp8 needs linear layers of a multiple of 16 inputs and outputs, found 24 and 40"):
        quantize(dataclasses.replace(layer, qkv=Linear(torch.zeros(40, 24))), "fp8")


def test_packed_batches_in_float8_equal_their_cells_within_a_bound_of_their_own(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    encoder = load(tiny_model("llama"), "metaeol")
    plain, decoder = load_hf_model(Path(encoder.spec.model), torch.float32), encoder.engine.runner.decoder
    narrow = build_decoder(plain, len(decoder.ropes[0]), len(decoder.layers), lambda index, layer: quantize(layer, "fp8"))
    assert narrow is not None
    object.__setattr__(encoder.engine, "runner", TriePass(narrow, encoder.engine.trie.groups))
    packed = PackedPass(narrow, encoder.engine.trie.groups, least_full=0.0)
    packed.set_batch_tokens(512)
    cells, ours = both(encoder, packed, TEXTS)
    assert worst_cosine(ours, cells) >= packed.min_cosine == 0.99
    assert packed.refused == {}
    assert packed.n_batches["compiled"]
    assert PackedPass(decoder, encoder.engine.trie.groups).min_cosine == 0.99999


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.999), ("int4", 0.92), ("fp8", 0.995)])
def test_the_demo_model_embeds_alike_in_few_bits(quantization: str, least: float, model_dir: Path) -> None:
    ours = load(model_dir, "metaeol", quantization=quantization)
    assert all(isinstance(layer.mlp.out, (QuantizedLinear, Float8Linear)) for layer in ours.engine.runner.decoder.layers)
    cosine = worst_cosine(ours.encode(TEXTS[:6]), load(model_dir, "metaeol").encode(TEXTS[:6]))
    assert least <= cosine < 0.9999999


def test_a_model_that_few_bits_would_change_is_refused(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"embedding.quantization is 'int4'.* cosine to transformers is .*set it to null"):
        load(tiny_model("llama"), "metaeol", quantization="int4")


def test_quantization_belongs_to_the_fingerprint_and_leaves_others_as_they_were() -> None:
    whole = EmbeddingSpec(model="m")
    assert len({whole.fingerprint(), *(EmbeddingSpec(model="m", quantization=q).fingerprint() for q in ("int8", "int4", "fp8"))}) == 4
    assert whole.fingerprint() == FINGERPRINT_BEFORE


#: Of ``EmbeddingSpec(model="m")`` before there was quantization: rows that were embedded then must not be embedded anew.
FINGERPRINT_BEFORE = "82b07afad64d8391"


def test_quantization_is_checked_on_every_surface() -> None:
    with pytest.raises(ConfigError, match=r"embedding.quantization must be one of int8, int4, fp8, or null, found 'int3'"):
        EmbeddingSpec(model="m", quantization="int3")
    job = {"source": {"table": "a.b", "key": ["id"]}, "embedding": {"model": "m", "quantisation": "int8"}}
    with pytest.raises(ConfigError, match=r"unknown key embedding.quantisation; did you mean 'quantization'\?"):
        parse_config(job)


def test_a_model_that_only_whole_prompts_run_cannot_be_quantized(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("jamba")
    with pytest.raises(ConfigError, match=r"embedding.quantization is 'int8'.* architecture 'jamba' runs on whole prompts alone"):
        check_quantization(EmbeddingSpec(model=str(folder), quantization="int8"), folder)
    with pytest.raises(ConfigError, match=r"embedding.quantization is 'int8'.* fork: its cosine .*set it to null"):
        load(folder, "metaeol", quantization="int8")


def test_a_model_that_is_too_large_for_a_device_is_placed_as_a_decoder(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    expected = MetaEOLEncoder.from_pretrained(str(folder), templates=TemplateSet.load("metaeol"), device="cpu", dtype="float32").encode(
        TEXTS
    )
    monkeypatch.setattr(loading, "fits_device", lambda model, device: False)
    placed = []
    monkeypatch.setattr(decoder_pass, "place", lambda *arguments: (placed.append(arguments), place(*arguments))[1])
    ours = load(folder, "metaeol")
    assert len(placed) == 1
    assert worst_cosine(ours.encode(TEXTS), expected) >= 0.99999
    with pytest.raises(EnvironmentFault, match="larger than a GPU and cannot be split"):
        load(tiny_model("jamba"), "metaeol")


def test_devices_are_named_one_by_one_or_left_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert loading.choose_devices("auto") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert loading.choose_devices("cuda:0,1") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert loading.choose_devices("cuda") == [torch.device("cuda", 0)]
    assert loading.choose_devices("cpu") == [torch.device("cpu")]
    with pytest.raises(EnvironmentFault, match="'cuda:2', but torch sees 2 GPUs"):
        loading.choose_devices("cuda:2")
