"""Which runner takes which architecture, by its name alone: what a driver knows before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from metaeol_udf.encoder.checkpoint.families import FAMILIES
from metaeol_udf.encoder.checkpoint.files import read_json
from metaeol_udf.errors import ConfigError
from metaeol_udf.formatting import shorten
from metaeol_udf.spec import EmbeddingSpec

#: Architectures that our own decoder knows.
DECODER_TYPES = tuple(FAMILIES)

#: Architectures of transformers that only whole prompts compute exactly: `python -m benchmarks.coverage` finds them.
RUN_WHOLE = frozenset({
    "axk2", "cpmant", "deepseek_v32", "dots3_note", "dots3_note_text", "falcon_mamba", "glm_moe_dsa", "hrm_text", "jamba", "mamba",
    "mamba2", "minimax", "openai-gpt", "recurrent_gemma", "rwkv", "xlm", "xlnet", "xlstm", "zamba", "zamba2",
})  # fmt: skip


def text_model_type(folder: Path) -> str:
    """Read the architecture of the part of a model that takes text.

    Raises:
        ModelFilesError: `config.json` is missing or damaged.
    """
    config = read_json(folder / "config.json")
    nested = config.get("text_config")
    kind = nested.get("model_type") if isinstance(nested, dict) else None
    return shorten(str(kind or config.get("model_type")), 80)


def check_quantization(spec: EmbeddingSpec, folder: Path) -> None:
    """See that a model whose weights are to be quantized has a runner that can do that: all but whole prompts.

    Raises:
        ConfigError: It does not.
        ModelFilesError: `config.json` is missing or damaged.
    """
    kind = text_model_type(folder)
    if spec.quantization is not None and kind in RUN_WHOLE:
        raise cannot_quantize(spec, f"architecture {kind!r} runs on whole prompts alone")


def cannot_quantize(spec: EmbeddingSpec, why: str) -> ConfigError:
    """Make the error of a model whose weights cannot be quantized."""
    return ConfigError(f"embedding.quantization is {spec.quantization!r}, which {spec.model} cannot use: {why}; set it to null")


def not_of_the_decoder(kind: str) -> str:
    """Say that our own decoder does not know an architecture."""
    return f"architecture {kind!r} is not one of {', '.join(DECODER_TYPES)}"
