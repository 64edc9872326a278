"""What a model folder may hold that is not what it seems: refused by name, never filled with random numbers, never run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import loading
from metaeol_udf.encoder.checkpoint.hf_loading import check_loadable, load_config, load_text_model
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ModelFilesError
from metaeol_udf.spec import EmbeddingSpec
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.tiny_configs import save_any_tiny_model, tiny_wrapper_config

TEXTS = ["the river", "good music and people?"]


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A model folder of its own for a test that changes it."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def load(folder: Path) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(str(folder), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def set_in(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, match: str) -> None:
    """The look before anything runs and the loader itself refuse a folder in the same words."""
    for refuse in (check_loadable, load):
        with pytest.raises(ModelFilesError, match=match):
            refuse(folder)


def test_a_good_folder_is_loadable_and_no_weight_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    keep = transformers.LlamaModel.__init__
    monkeypatch.setattr(
        transformers.LlamaModel, "__init__", lambda self, config: (keep(self, config), made.append(self.norm.weight.device))[0]
    )
    check_loadable(folder)
    assert made == [torch.device("meta")]


def test_a_tensor_that_is_missing_is_named(folder: Path) -> None:
    name = next(name for name in load_file(folder / "model.safetensors") if "layers.2.mlp.down_proj" in name)
    change_tensors(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name})
    refused(folder, r"lacks layers\.2\.mlp\.down_proj\.weight$")


def test_another_prefix_of_names_is_seen(folder: Path) -> None:
    change_tensors(folder, lambda tensors: {f"backbone.{key.removeprefix('model.')}": tensor for key, tensor in tensors.items()})
    refused(folder, r"lacks \d+ tensors, such as embed_tokens\.weight, and has backbone\.\S+, which the model does not know")


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    name = next(name for name in load_file(folder / "model.safetensors") if "layers.1.mlp.up_proj" in name)
    change_tensors(folder, lambda tensors: {**tensors, name: tensors[name][:10].clone()})
    refused(folder, r"has layers\.1\.mlp\.up_proj\.weight of shape \(10, 48\), the model needs \(96, 48\)")


@pytest.mark.parametrize("beside", [True, False], ids=["beside its base", "alone"])
def test_an_adapter_is_never_left_out_in_silence(folder: Path, beside: bool) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": "somewhere"}))
    if not beside:
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "config.json").unlink()
    for refuse in (lambda: resolve_local(EmbeddingSpec(model=str(folder))), lambda: load(folder)):
        with pytest.raises(
            ModelFilesError, match=r"holds an adapter \(adapter_config\.json\).*metaeol model prepare .* merges it into its base"
        ):
            refuse()


@pytest.mark.parametrize(
    "config",
    [
        transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=1024),
        transformers.ModernBertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=60_000, reference_compile=False
        ),
        transformers.T5Config(d_model=32, num_layers=2, num_heads=2, d_ff=64, d_kv=16, vocab_size=1024),
    ],
    ids=["bert", "modernbert", "t5"],
)
def test_a_model_that_does_not_continue_texts_is_refused(folder: Path, config: object) -> None:
    kept = folder.parent / "kept"
    folder.rename(kept)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    for path in kept.glob("tokenizer*"):
        shutil.copy(path, folder)
    refused(folder, "no causal language model|sequence-to-sequence")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_quantised_weights_without_their_library_are_refused(folder: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both are here for `metaeol model prepare`.
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr("transformers.utils.quantization_config.is_compressed_tensors_available", lambda: False)
    settings = {"bitsandbytes": {"load_in_4bit": True}, "compressed-tensors": {"config_groups": {}, "format": "dense"}}
    set_in(folder / "config.json", quantization_config={"quant_method": method, "bits": 4, **settings.get(method, {})})
    refused(folder, r"transformers cannot load the model in .*install that library|prepare SRC DEST")


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    refused(folder, "transformers cannot load the tokenizer in")


def test_a_tokenizer_that_needs_another_library_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    set_in(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    refused(folder, "tokenizer.model alone, which cannot be read here")


@pytest.mark.parametrize("kind", ["AutoTokenizer", "AutoConfig"])
def test_code_of_a_folder_never_runs_and_nothing_is_asked(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    if kind == "AutoTokenizer":
        set_in(folder / "tokenizer_config.json", auto_map={kind: ["own.Own", None]}, tokenizer_class="Own")
    else:
        set_in(folder / "config.json", auto_map={kind: "own.Own"}, model_type="own_kind")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 5))
    refused(folder, "transformers cannot load the (tokenizer|configuration) in")
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read() == "y\n" * 5  # nobody asked


def test_weights_of_a_kind_that_the_fast_path_does_not_read_take_the_slow_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OtherLinear(torch.nn.Linear):
        """As a quantised layer: the same name, another kind."""

    read = loading.load_text_model

    def with_another_layer(*arguments: object, **options: object) -> torch.nn.Module:
        model = read(*arguments, **options)  # type: ignore[arg-type]
        model.layers[1].mlp.down_proj.__class__ = OtherLinear
        return model  # type: ignore[no-any-return]

    monkeypatch.setattr(loading, "load_text_model", with_another_layer)
    ours = load(folder)
    assert ours.engine.runner.name == "stream"
    assert "decoder: OtherLinear with weights of torch." in caplog.text
    prompts = [template.prompt for template in TemplateSet.load("metaeol").templates]
    assert worst_cosine(ours.encode(TEXTS), one_at_a_time(folder, prompts, TEXTS, -1).mean(1)) >= 0.99999


@pytest.mark.parametrize("wrapper", ["gemma3", "gemma4", "llama4", "mistral3", "qwen3_5", "qwen3_vl"])
def test_of_a_model_that_sees_not_one_tensor_of_its_towers_is_read(wrapper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_any_tiny_model(tiny_wrapper_config(wrapper), tmp_path)
    stored = list(load_file(tmp_path / "model.safetensors"))
    read: list[str] = []

    class Slice:
        def __init__(self, name: str, inner: Any) -> None:
            self.name, self.inner = name, inner

        def __getitem__(self, place: Any) -> torch.Tensor:
            read.append(self.name)
            return cast("torch.Tensor", self.inner[place])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class File:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.inner = safe_open(*arguments, **options)

        def get_slice(self, name: str) -> Slice:
            return Slice(name, self.inner.get_slice(name))

        def get_tensor(self, name: str) -> torch.Tensor:
            return self.get_slice(name)[...]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __enter__(self) -> File:
            self.inner.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)

    monkeypatch.setattr("transformers.modeling_utils.safe_open", File)
    model = load_text_model(tmp_path, torch.float32, load_config(tmp_path))
    assert sorted(set(read)) == [name for name in sorted(stored) if "language_model." in name and "lm_head" not in name]
    assert {name.partition(".")[0] for name in set(stored) - set(read)} >= {"vision_tower", "audio_tower"} & {
        name.partition(".")[0] for name in stored
    }
    assert len(read) < len(stored)
    towers = ("vision", "visual", "audio", "image", "projector")
    assert not [name for name, _ in model.named_parameters() if any(tower in name for tower in towers)]
