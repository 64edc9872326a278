"""How fast each runner is, as a ratio to the same model's own plain loop: random models of about 68 million parameters, 64 short texts.

The loop is transformers alone, one prompt at a time without padding, all hidden states; it runs over a sample of the texts, once with
the bare model and once with its language-model head, as MetaEOL's published script runs it. All sides are timed in turn in one process, in
float32, with `metaeol`. A family of our own decoder is timed on the generic stream, too.

    python -m benchmarks.models [--rounds N] [--json PATH] [ARCHITECTURE ...]
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from transformers import AutoTokenizer

from benchmarks.baselines import load_causal_model
from benchmarks.results import Row, command_parser, describe_machine, show, significant, write_results
from benchmarks.texts import short_texts
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.checkpoint.families import FAMILIES
from metaeol_udf.encoder.checkpoint.hf_loading import load_config, load_text_model, quiet_transformers
from metaeol_udf.encoder.generic.reference import encode_plainly
from tests.encoder.oracle import worst_cosine
from tests.tiny_configs import random_model, tiny_config

NAMES = (
    *("llama", "phi3", "olmo2", "olmo3", "glm4", "smollm3", "granite"),
    *("qwen3_moe", "gpt_oss", "gemma4_text", "qwen3_5_text", "qwen3_next", "lfm2"),
)
N_TEXTS, N_OF_LOOP = 64, 4

#: Sizes in place of the tiny ones, by the names that configurations have for them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "attention_hidden_size"), 512), "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 1536, "moe_intermediate_size": 384, "num_experts": 8,
    "num_local_experts": 8, "num_hidden_layers": 12, "vocab_size": 49_152, "vocab_size_per_layer_input": 49_152, "sliding_window": 512,
    "max_position_embeddings": 4096, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "mamba_n_heads": 16, "mamba_d_head": 64,
    "mamba_d_ssm": 1024, "mamba_d_state": 64, "shared_intermediate_size": 512, "hidden_size_per_layer_input": 64,
    "query_pre_attn_scalar": 64, "global_head_dim": 64, "mamba_chunk_size": 64,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the models and print their ratios."""
    parser = command_parser(__doc__)
    parser.add_argument("names", nargs="*", help="architectures; none: those of NAMES")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(describe_machine())
    rows = []
    for name in options.names or NAMES:
        rows.append(measure(name, options.model, options.rounds))
        print(rows[-1], flush=True)
    show(rows)
    if options.json is not None:
        write_results(options.json, rows)


def measure(name: str, tokenizer_of: Path, rounds: int) -> Row:
    """Time a model of an architecture: the loop over a sample of the texts and the encoder over all, in turn."""
    templates = TemplateSet.load("metaeol")
    texts = short_texts(N_TEXTS)
    some = texts[:: N_TEXTS // N_OF_LOOP]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = random_model(larger(tiny_config(name)))
        n_parameters = sum(p.numel() for p in model.parameters())
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
        del model
        ours = MetaEOLEncoder.from_pretrained(str(folder), templates=templates, dtype="float32", device="cpu")
        on_stream = load_on_stream(folder, name, templates) if ours.engine.runner.name == "decoder" else None
        plain = load_text_model(folder, ours.engine.dtype, load_config(folder))
        with quiet_transformers():  # it warns of the head, which the folder of a bare model lacks: its numbers matter to no state
            with_head = load_causal_model(folder)
        layers = [ours.engine.n_layers]
        tokenizer = ours.engine.trie.tokenizer
        loops, head_loops, encodes, streams = [], [], [], []
        for _ in range(rounds):
            started = time.monotonic()
            expected = encode_plainly(plain, tokenizer, templates, some, layers)
            loops.append((time.monotonic() - started) / len(some))
            started = time.monotonic()
            encode_plainly(with_head, tokenizer, templates, some, layers)
            head_loops.append((time.monotonic() - started) / len(some))
            started = time.monotonic()
            states = ours.encode(texts, per_template=True)
            encodes.append((time.monotonic() - started) / len(texts))
            if on_stream is not None:
                started = time.monotonic()
                on_stream.encode(texts)
                streams.append((time.monotonic() - started) / len(texts))
        ratios = ratios_of(loops, encodes)
        cosine = worst_cosine(states[:: N_TEXTS // N_OF_LOOP], expected[:, :, 0])
        return {
            "architecture": name, "parameters": f"{n_parameters / 1e6:.0f} million", "runner": ours.engine.runner.name,
            "texts/s": significant(1 / median(encodes)), "loop": significant(1 / median(loops)), "ratio": significant(median(ratios)),
            "spread": f"{min(ratios):.1f} to {max(ratios):.1f}",
            "loop with head": significant(1 / median(head_loops)),
            "ratio to it": significant(median(ratios_of(head_loops, encodes))),
            "stream": significant(median(ratios_of(loops, streams))) if streams else "",
            "over stream": f"{median(ratios_of(streams, encodes)):.2f}" if streams else "",
            "worst cosine": f"{cosine:.6f}",
            "tokens": f"{ours.describe()['share_of_tokens']:.0%}",
        }  # fmt: skip


def ratios_of(seconds: Sequence[float], over: Sequence[float]) -> list[float]:
    """Compare two sides, round by round."""
    return [one / other for one, other in zip(seconds, over, strict=True)]


def load_on_stream(folder: Path, name: str, templates: TemplateSet) -> MetaEOLEncoder:
    """Make an encoder that runs a family of our own decoder on the generic stream: as if the family read no setting."""
    with patch.dict(FAMILIES, {name: dataclasses.replace(FAMILIES[name], reads=frozenset())}):
        encoder = MetaEOLEncoder.from_pretrained(str(folder), templates=templates, dtype="float32", device="cpu")
    if encoder.engine.runner.name != "stream":
        raise RuntimeError(f"{name} runs on {encoder.engine.runner.name}")
    return encoder


def larger(config: Any) -> Any:
    """Make a tiny configuration larger, with its layers repeated."""
    plain = config.to_dict()
    options = {**plain, **{name: size for name, size in SIZES.items() if plain.get(name) is not None}}
    n_layers = SIZES["num_hidden_layers"]
    for name, value in plain.items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers and name != "architectures":
            options[name] = list(np.resize(np.array(value, dtype=object), n_layers))
    if options.pop("per_layer_config", None) is not None:  # Gemma 4: follows from the heads of its full-attention layers
        options["global_head_dim"] = SIZES["global_head_dim"]
    if "layers_block_type" in plain or "attn_layer_indices" in plain:
        raise ValueError(f"{config.model_type} names its layers in another way")
    return type(config)(**{name: value for name, value in options.items() if name not in ("model_type", "transformers_version")})


if __name__ == "__main__":
    main()
