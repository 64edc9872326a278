"""Adapters are merged and quantised weights are written out: what comes out computes what went in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.checkpoint import plain_weights
from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from tests.encoder.oracle import one_at_a_time, worst_cosine

FLOAT32 = PrepareOptions(dtype="float32")
TEXTS = ["a good day", "the people play music by the river"]


# Warnings of peft and bitsandbytes about the small models here.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def base(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a language-model head."""
    folder, tokenizer = tmp_path_factory.mktemp("base") / "base", AutoTokenizer.from_pretrained(model_dir)
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tokenizer), initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes adapters with random weights, as a fine-tuning leaves them."""
    from peft import LoraConfig, get_peft_model

    def make(name: str, new_tokens: tuple[str, ...] = (), **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("adapter") / name
        torch.manual_seed(5)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        if new_tokens:
            tokenizer.add_tokens(list(new_tokens))
            model.resize_token_embeddings(len(tokenizer))
            tokenizer.save_pretrained(folder)
        config = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "down_proj"], **options)
        get_peft_model(model, config).save_pretrained(folder)
        return folder

    return make


def last_states(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        states = model.eval()(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    return states.float()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1).min().item()


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=str
)
def test_a_merged_adapter_computes_what_peft_computes(options: dict[str, Any], base: Path, adapted: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = adapted("tuned", **options)
    assert prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
    assert json.loads((tmp_path / "merged" / "metaeol-manifest.json").read_text())["source"] == "tuned on base"
    expected = last_states(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))
    merged = last_states(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert cosine(merged, expected) > 0.99999
    assert cosine(merged, last_states(AutoModelForCausalLM.from_pretrained(base))) < 0.99
    assert not prepare_model(str(adapter), tmp_path / "merged", FLOAT32)


def test_an_adapter_beside_its_base_and_one_with_tokens_of_its_own(base: Path, adapted: Any, tmp_path: Path) -> None:
    adapter = adapted("tuned")
    beside = Path(shutil.copytree(base, tmp_path / "beside"))
    for path in adapter.glob("adapter_*"):
        shutil.copy(path, beside)
    for source in (adapter, beside):
        prepare_model(str(source), tmp_path / f"{source.name}-merged", FLOAT32)
    one, other = (load_file(tmp_path / f"{name}-merged" / "model.safetensors") for name in ("tuned", "beside"))
    assert all(one[name].equal(other[name]) for name in one)

    with_token = adapted("longer", new_tokens=("<patient>",), modules_to_save=["embed_tokens", "lm_head"])
    prepare_model(str(with_token), tmp_path / "longer-merged", FLOAT32)
    ids = AutoTokenizer.from_pretrained(tmp_path / "longer-merged")("<patient>", add_special_tokens=False).input_ids
    table = load_file(tmp_path / "longer-merged" / "model.safetensors")["model.embed_tokens.weight"]
    assert ids == [len(table) - 1]


def test_an_adapter_that_does_not_fit_is_refused(base: Path, adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapted("tuned")
    weights = load_file(adapter / "adapter_model.safetensors")
    first = sorted(weights)[0]
    layer_7 = {name.replace("layers.1.", "layers.7."): tensor.clone() for name, tensor in weights.items() if "layers.1." in name}

    def refused(changed: dict[str, torch.Tensor], match: str) -> None:
        save_file(changed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelFilesError, match=match):
            prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
        assert not (tmp_path / "merged").exists()

    refused({name: tensor for name, tensor in weights.items() if name != first}, f"lacks {first}")
    refused(weights | layer_7, r"layers\.7\..*, which the base model does not have")
    refused(weights | {first: torch.zeros(4, 5)}, "does not fit its base model")
    (adapter / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelFilesError, match="is damaged"):
        prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelFilesError, match="--allow-pickle"):
        prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
    assert prepare_model(str(adapter), tmp_path / "merged", PrepareOptions(dtype="float32", allow_pickle=True))

    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(EnvironmentFault, match=r"metaeol-udf\[prepare\]"):
        prepare_model(str(adapter), tmp_path / "other", FLOAT32)


def test_an_adapter_needs_a_base_that_can_be_found(base: Path, adapted: Any, tmp_path: Path) -> None:
    adapter = adapted("tuned")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "moved")}))
    with pytest.raises(ConfigError, match="does not exist"):
        prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="--base"):
        prepare_model(str(adapter), tmp_path / "merged", FLOAT32)
    assert prepare_model(str(adapter), tmp_path / "merged", PrepareOptions(dtype="float32", base=str(base)))
    with pytest.raises(ConfigError, match="--base is for adapters"):
        prepare_model(str(base), tmp_path / "plain", PrepareOptions(base=str(base)))


def test_an_adapter_that_changes_no_weights_is_refused(base: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ModelFilesError, match="PROMPT_TUNING, which changes no weights"):
        prepare_model(str(tmp_path / "prompt"), tmp_path / "merged", FLOAT32)


def quantise_fp8(base: Path, folder: Path) -> None:
    """Write a checkpoint of 8-bit floats with a scale for each block, as DeepSeek and Qwen publish them."""
    shutil.copytree(base, folder)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        stored[name] = tensor
        if "_proj" in name:
            blocks = tensor.reshape(tensor.shape[0] // 16, 16, tensor.shape[1] // 16, 16)
            scale = blocks.abs().amax((1, 3)) / 448
            stored[name] = (blocks / scale[:, None, :, None]).reshape(tensor.shape).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config))


def quantise_bitsandbytes(base: Path, folder: Path, **options: Any) -> None:
    from transformers import BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=BitsAndBytesConfig(**options), device_map="cpu")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def quantise_compressed(base: Path, folder: Path) -> None:
    """Write a checkpoint of packed 4-bit integers, as llm-compressor does."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config

    weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized", quantization_status="frozen", ignore=["lm_head"]
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.data.reshape(module.weight.shape[0], -1, 32)
            module.weight_scale.data = (groups.abs().amax(-1) / 7).reshape(module.weight_scale.shape)
    ModelCompressor(quantization_config=config).compress_model(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    stored["quantization_config"] = {
        **json.loads(config.model_dump_json()), "quant_method": "compressed-tensors", "quantization_status": "compressed",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stored))


#: Kinds of quantised checkpoints, and how far their plain weights may be from them: layers that also quantise what goes in are not exact.
KINDS: dict[str, tuple[Callable[..., None], dict[str, Any], float]] = {
    "fp8": (quantise_fp8, {}, 0.99999),
    "nf4": (quantise_bitsandbytes, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}, 0.999),
    "int8": (quantise_bitsandbytes, {"load_in_8bit": True}, 0.995),
    "compressed": (quantise_compressed, {}, 0.99999),
}


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_written_out(kind: str, base: Path, tmp_path: Path) -> None:
    quantise, options, bound = KINDS[kind]
    quantise(base, tmp_path / kind, **options)
    for dtype in ("float32", "bfloat16"):
        assert prepare_model(str(tmp_path / kind), tmp_path / dtype, PrepareOptions(dtype=dtype))
        stored = load_file(tmp_path / dtype / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
        assert "quantization_config" not in (tmp_path / dtype / "config.json").read_text()
    expected = last_states(AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype=torch.float32))
    plain = last_states(AutoModelForCausalLM.from_pretrained(tmp_path / "float32"))
    assert cosine(plain, expected) >= bound
    assert cosine(plain, last_states(AutoModelForCausalLM.from_pretrained(base))) < 0.99999  # it is no copy of the model before


def test_what_was_made_gives_the_vectors_of_its_source(base: Path, adapted: Any, tmp_path: Path) -> None:
    prepare_model(str(adapted("tuned")), tmp_path / "merged", FLOAT32)
    templates = TemplateSet.load("metaeol-fast")
    ours = MetaEOLEncoder.from_pretrained(str(tmp_path / "merged"), templates=templates, dtype="float32", device="cpu")
    plain = one_at_a_time(tmp_path / "merged", [template.prompt for template in templates.templates], TEXTS, -1)
    assert worst_cosine(ours.encode(TEXTS, per_template=True), plain) > 0.99999


def test_weights_that_are_unpacked_wrongly_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise_bitsandbytes(base, tmp_path / "int8", load_in_8bit=True)
    written_out = plain_weights.write_out

    def turn_round(model: Any, names: list[str], dtype: torch.dtype, label: str) -> None:
        written_out(model, names, dtype, label)
        model.model.layers[0].mlp.up_proj.weight.data.neg_()

    monkeypatch.setattr(plain_weights, "write_out", turn_round)
    with pytest.raises(ModelFilesError, match="plain weights compute something else"):
        prepare_model(str(tmp_path / "int8"), tmp_path / "plain", FLOAT32)
    assert not (tmp_path / "plain").exists()
