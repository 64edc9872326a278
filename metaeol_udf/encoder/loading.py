"""From a model folder to something that runs: device, dtype, weights, tokenizer, and the runner that is proved exact."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metaeol_udf.encoder.checkpoint.files import check_weights
from metaeol_udf.encoder.checkpoint.hf_loading import load_config, load_text_model, load_tokenizer, quiet_transformers
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import verify_folder
from metaeol_udf.encoder.checkpoint.process_memory import keep_freed_memory, release_clean_pages
from metaeol_udf.encoder.forward.quantization import has_float8
from metaeol_udf.encoder.forward.runner import Runner
from metaeol_udf.encoder.gpu.device_map import room_for_weights
from metaeol_udf.encoder.proof import longest_prompt, make_proof
from metaeol_udf.encoder.runners import ModelSource, choose_runner
from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError, ModelFilesError, nearest_word
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spec import EmbeddingSpec, output_layers

logger = logging.getLogger(__name__)

# oneDNN and torch's bridge to it each keep compiled products by shape, and nearly every batch has a shape of its own: at their
# own capacities of 1024 that grows by a gigabyte. Read at the first product of a process; what the user has set stays.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "16"}


@dataclass(frozen=True)
class Engine:
    """Holds a loaded model with its tokenizer: all that turns token ids into hidden states.

    Attributes:
        trie: Tokenises prompts.
        runner: Runs batches of the trie's cells.
        device: Where the weights are.
        dtype: Of weights and activations.
        hidden_size: Length of a hidden state.
        n_layers: Layers of the model, whether they run or not.
        n_states: Hidden states that are read of each prompt: 1, or as many as `layer` lists.
        config: The text model's configuration.
        n_most_tokens: Tokens of the longest prompt that it was proved for.
        reasons: Why no faster runner is used, a sentence each.
        root: The engine that was loaded, where this one shares its weights; else None.
    """

    trie: PromptTrie
    runner: Runner
    device: torch.device
    dtype: torch.dtype
    hidden_size: int
    n_layers: int
    n_states: int
    config: Any = None
    n_most_tokens: int = 0
    reasons: tuple[str, ...] = ()
    root: Engine | None = None


def load_engine(spec: EmbeddingSpec, templates: TemplateSet, device_name: str) -> Engine:
    """Load a model and choose the fastest runner that is proved to equal transformers' own forward.

    Raises:
        ConfigError: The layer, or `max_tokens` with the prompts around it, is more than the model has.
        ModelFilesError: Files are missing, truncated or altered.
        EnvironmentFault: The device is not there, or cannot compute what the spec asks for.
    """
    started = time.monotonic()
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)
    devices = choose_devices(device_name)
    device = devices[0]
    if spec.quantization == "fp8":
        check_float8(devices)
    dtype = choose_dtype(spec.dtype, device)
    folder = model_folder(spec.model, spec.revision)
    check_weights(folder)
    verify_folder(folder)
    release_clean_pages()
    with quiet_transformers():
        config = load_config(folder)
        tokenizer = PromptTokenizer(load_tokenizer(folder))

    def load() -> Any:
        with quiet_transformers():
            return load_text_model(folder, dtype, config)

    model = load()
    is_apart = spec.quantization is not None or not fits_device(model, device)  # quantized before it is moved to its devices
    model = model if is_apart else model.to(device)
    text_config = model.config.get_text_config()
    layers = output_layers(spec.layer, text_config.num_hidden_layers)
    check_room(spec, templates, tokenizer, text_config)
    check_splitting(spec, tokenizer)
    try:
        proof = make_proof(model, tokenizer, templates, layers, max_tokens=spec.max_tokens, quantization=spec.quantization)
    except (MetaEOLError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ModelFilesError(f"transformers cannot run the model in {folder}: {type(error).__name__}: {error}") from error
    release_clean_pages()
    source = ModelSource(model, load if is_apart else lambda: load().to(device))
    del model  # the source alone holds it, and gives it up
    chosen = choose_runner(source, spec, proof, tokenizer, layers, devices if is_apart else ())
    if device.type == "cpu":
        keep_freed_memory()
    logger.info(
        "loaded %s on %s in %s with runner %s (worst cosine %.6f), %.1f s", spec.model, device, str(dtype).removeprefix("torch."),
        chosen.runner.name, chosen.worst_cosine, time.monotonic() - started,
    )  # fmt: skip
    return Engine(
        chosen.trie, chosen.runner, device, dtype, proof.expected.shape[-1], text_config.num_hidden_layers, len(layers), text_config,
        proof.n_most_tokens, chosen.reasons,
    )  # fmt: skip


def choose_devices(name: str) -> list[torch.device]:
    """Return the devices that `runtime.device` means on this machine; several where a model may be split: `auto`, or `cuda:0,1`.

    Raises:
        ConfigError: There is no such kind of device.
        EnvironmentFault: A GPU is asked for and is not there.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return [torch.device("cuda", index) for index in range(n_gpus)] or [torch.device("cpu")]
    kind, _, numbers = name.partition(":")
    try:
        devices = [torch.device(kind, int(number)) for number in (numbers or "0").split(",")] if kind == "cuda" else [torch.device(name)]
    except (RuntimeError, ValueError):  # of torch, which lists every kind of device that it has ever heard of
        hint = nearest_word(name, ("auto", "cpu", "cuda"))
        raise ConfigError(f"runtime.device must be auto, cpu, cuda or cuda:N, found {name!r}{hint}") from None
    if any(device.type == "cuda" and (device.index or 0) >= n_gpus for device in devices):
        raise EnvironmentFault(f"runtime.device is {name!r}, but torch sees {n_gpus} GPUs here; set runtime.device to auto or cpu")
    return devices


def check_float8(devices: Sequence[torch.device]) -> None:
    """See that GPUs multiply 8-bit floating point numbers; on a CPU the same vectors come without a gain.

    Raises:
        EnvironmentFault: One does not.
    """
    for device in devices:
        if device.type == "cuda" and not has_float8(device):
            raise EnvironmentFault(
                f"embedding.quantization is 'fp8', and {torch.cuda.get_device_name(device)} does not multiply 8-bit floating point numbers "
                "(Ada and Hopper are the first that do): set embedding.quantization to null, or to int8 to save memory"
            )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `embedding.dtype` means on a device; `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    has_bfloat16 = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if has_bfloat16 else torch.float32


def fits_device(model: Any, device: torch.device) -> bool:
    """Tell whether a device has room for a whole model; a CPU's memory is not asked."""
    return device.type != "cuda" or sum(p.numel() * p.element_size() for p in model.parameters()) <= room_for_weights(device)


def check_room(spec: EmbeddingSpec, templates: TemplateSet, tokenizer: PromptTokenizer, config: Any) -> None:
    """Refuse a `max_tokens` whose prompts would not fit the positions that the model knows."""
    n_positions = getattr(config, "max_position_embeddings", None)
    n_prompt = longest_prompt(tokenizer, templates, 0)
    if n_positions is not None and n_positions > 0 and longest_prompt(tokenizer, templates, spec.max_tokens) > n_positions:
        raise ConfigError(
            f"embedding.max_tokens is {spec.max_tokens}, but the model has {n_positions} positions and the longest prompt takes "
            f"{n_prompt}: use at most {int((n_positions - n_prompt) / templates.most_growth)}"
        )


def check_splitting(spec: EmbeddingSpec, tokenizer: PromptTokenizer) -> None:
    """Refuse to split long texts where the tokenizer does not say which characters a token stands for."""
    if spec.splits_by is not None and not tokenizer.has_offsets:
        raise ConfigError(
            f"embedding.long_texts is {spec.long_texts!r}, but the model's tokenizer does not say where in a text its tokens end: set "
            "embedding.long_texts=trim"
        )
