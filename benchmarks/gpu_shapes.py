"""Decoders and prompts of real sizes without real weights, for benchmarks on machines that have no model files and no Spark."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from metaeol_udf.encoder.forward.batching import plan_batches
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Linear, Mlp, Norm
from metaeol_udf.encoder.preparation import PreparedTexts
from metaeol_udf.prompts.trie import PrefixGroup

MAX_TEXTS = 8192  # of a window, as the encoder plans
MIX = "mix"  # texts of many lengths, in place of a number of tokens


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama: sizes without weights."""

    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int = 49_152


SHAPES = {
    "135M": Shape(30, 576, 1536, 9, 3, 64),  # SmolLM2-135M
    "0.6B": Shape(28, 1024, 3072, 16, 8, 128),  # Qwen3-0.6B
    "1.5B": Shape(28, 1536, 8960, 12, 2, 128),  # Qwen2.5-1.5B
    "8B": Shape(32, 4096, 14_336, 32, 8, 128),  # Llama-3.1-8B
}
TINY = {"tiny": Shape(2, 64, 128, 4, 2, 16, 512)}


@dataclasses.dataclass(frozen=True)
class Group:
    """Prompts with one prefix: tokens of the prefix, of what each prompt has behind the text, and how many of those all begin with."""

    n_prefix: int
    n_behind: tuple[int, ...]
    n_shared: int = 0


# What SmolLM2's tokenizer makes of the built-in sets.
TEMPLATES = {
    "metaeol": [Group(n, (5, 4), 3) for n in (19, 11, 13, 17)],
    "metaeol-separate": [Group(n, (4 if n == 45 and i else 3,)) for i, n in enumerate((45, 45, 46, 46, 45, 44, 49, 43))],
}
PUBLISHED = [Group(51, (10,))] * 8  # eight prompts of the length that the paper's have on average


def build_decoder(shape: Shape, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Draw random weights whose activations stay of the order of one."""

    def linear(n_out: int, n_in: int) -> Linear:
        return Linear(torch.randn(n_out, n_in, dtype=dtype, device=device) * n_in**-0.5)

    def norm() -> Norm:
        return Norm(torch.ones(shape.hidden_size, device=device), None, 1e-5)

    n_query, n_key, n_inner = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim, shape.intermediate_size
    layers = [
        Layer(
            attention_norm=norm(), qkv=linear(n_query + 2 * n_key, shape.hidden_size), q_norm=None, k_norm=None,
            attention_out=linear(shape.hidden_size, n_query), after_attention_norm=None, mlp_norm=norm(),
            mlp=Mlp(linear(2 * n_inner, shape.hidden_size), linear(shape.hidden_size, n_inner), "silu", is_gated=True),
            after_mlp_norm=None, scaling=shape.head_dim**-0.5,
        )
        for _ in range(shape.n_layers)
    ]  # fmt: skip
    angles = torch.arange(2048)[:, None] * 10_000.0 ** -(torch.arange(shape.head_dim // 2) * 2 / shape.head_dim)
    rope = torch.polar(torch.ones_like(angles), angles).to(device)
    return Decoder(
        token_table=torch.randn(shape.vocabulary, shape.hidden_size, dtype=dtype, device=device), token_scale=None, position_table=None,
        ropes=(rope,), layers=layers, final_norm=norm(), softcap=None,
        n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads, head_dim=shape.head_dim,
    )  # fmt: skip


def make_groups(templates: Sequence[Group], vocabulary: int) -> list[PrefixGroup]:
    """Make prefix groups of random tokens."""
    rng, groups = np.random.default_rng(5), list[PrefixGroup]()
    for group in templates:
        parents: list[int] = []
        outputs = []
        for n_behind in group.n_behind:
            n_known = group.n_shared if parents else 0  # the first prompt makes what all share
            node = n_known - 1
            for _ in range(n_behind - n_known):
                parents.append(node)
                node = len(parents) - 1
            outputs.append(node)
        sees = np.eye(len(parents), dtype=bool)
        depths: list[int] = []
        for node, parent in enumerate(parents):
            sees[node] |= sees[parent] if parent >= 0 else False
            depths.append(int(sees[node].sum()))
        first = sum(len(known.outputs) for known in groups)
        groups.append(
            PrefixGroup(
                prefix_ids=tuple(rng.integers(1, vocabulary, size=group.n_prefix).tolist()),
                template_indices=tuple(range(first, first + len(outputs))),
                suffix_ids=tuple(rng.integers(1, vocabulary, size=len(parents)).tolist()), suffix_depths=tuple(depths), suffix_sees=sees,
                outputs=tuple(outputs), prompt_lengths=tuple(group.n_prefix + n for n in group.n_behind),
            )
        )  # fmt: skip
    return groups


def draw_lengths(length: int | str, n_texts: int) -> list[int]:
    """Give each text's tokens; a mix is log-normal with a median of 28, at most 500."""
    if length != MIX:
        return [int(length)] * n_texts
    return np.random.default_rng(1).lognormal(np.log(28), 0.9, n_texts).astype(int).clip(3, 500).tolist()  # type: ignore[no-any-return]


def draw_texts(lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    """Draw random tokens; 0, which pads, is none of them."""
    rng = np.random.default_rng(len(lengths))
    return [rng.integers(1, vocabulary, size=length).tolist() for length in lengths]


def make_prepared(groups: Sequence[PrefixGroup], texts: Sequence[list[int]], max_batch_tokens: int) -> PreparedTexts:
    """Plan texts as the encoder plans them."""
    lengths, n_texts = np.array([len(text) for text in texts], np.int64), len(texts)
    batches = plan_batches([dict(enumerate(lengths.tolist()))] * len(groups), [len(g.suffix_ids) for g in groups], max_batch_tokens)
    n_computed = len(groups) * lengths + sum(len(group.suffix_ids) for group in groups)
    n_whole = sum(len(group.prompt_lengths) * lengths + sum(group.prompt_lengths) for group in groups)
    ids = [dict(enumerate(texts))] * len(groups)
    return PreparedTexts(groups, ids, batches, n_texts, np.arange(n_texts), np.zeros(n_texts, bool), n_computed, n_whole)


def wait(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Time one call, after one that is not timed, over at least so many seconds."""
    work()
    wait(device)
    n_calls, started = 0, time.perf_counter()
    while n_calls == 0 or time.perf_counter() - started < least:
        work()
        wait(device)
        n_calls += 1
    return (time.perf_counter() - started) / n_calls
