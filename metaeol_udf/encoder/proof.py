"""The proof that a runner is exact: its hidden states of a few texts against those of one prompt at a time.

In bfloat16 and float16 both sides lose digits. There both are compared with float32, and a runner may lose little more than
transformers' own forward does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaeol_udf.cosine import unit_rows
from metaeol_udf.encoder.forward.runner import Runner
from metaeol_udf.encoder.generic.few_bits import has_experts
from metaeol_udf.encoder.generic.reference import encode_plainly
from metaeol_udf.encoder.generic.text_model import find_layers
from metaeol_udf.encoder.gpu.proof import MIN_COSINE
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.encoder.vectors.output import add_states
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spec import EmbeddingSpec

logger = logging.getLogger(__name__)

#: One token, whose prompt ends so near to the shared prefix that what is wrong there shows; and a longer text.
_TEXTS = ("x", 'Ein zweiter, etwas längerer Text: "quoted", with 12 numbers (and brackets)?')
_MIN_QUANTIZED_COSINE = {"int8": 0.99, "int4": 0.9, "fp8": 0.99}  # to transformers with whole weights
#: The same for single states of models that choose experts: where two experts score alike, any rounding changes one state a lot.
_MIN_COSINE_OF_ONE = {"int8": 0.96, "int4": 0.8}
_MOST_LOST, _MOST_LOST_BY_ONE = 3.0, 8.0  # times what transformers' own forward loses against float32: the median state, and the worst
_LEAST_LOST = 3e-5  # of a cosine: what is lost by so little is as good as exact
_WORDS = ["A", "short", "text", "to", "check", "with."]  # of the long text
_TEXTS_OF_FEW_BITS = (" ".join(_WORDS), _TEXTS[1])  # where experts are chosen, one rounding changes a state of so short a text most
_BEYOND = 16  # tokens of the long text beyond a window

_SWITCH = "original_max_position_embeddings"
#: Settings that say from which length on a token sees less, or positions count otherwise.
_HORIZONS = (
    "sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_attention", "attention_chunk_size", _SWITCH,
    "floor_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """Holds what a runner must compute.

    Attributes:
        texts: What is embedded.
        expected: float32, shape ``(n_texts, n_templates, n_states, hidden_size)``; NaN where nothing is compared.
        min_cosines: To `expected`, at least, for each of a text's states, shape ``(n_texts,)``.
        min_median: The same for the median: where experts are chosen, one rounding changes single states a lot.
        templates: The template set.
        n_most_tokens: Of the longest prompt that texts of `max_tokens` make.
    """

    texts: Sequence[str]
    expected: NDArray[np.float32]
    min_cosines: NDArray[np.float64]
    min_median: float
    templates: TemplateSet
    n_most_tokens: int

    def judge(self, trie: PromptTrie, runner: Runner) -> tuple[float, str | None]:
        """Embed the texts with a runner and compare.

        Returns:
            The worst cosine, -1 where a state is not finite; and why the runner is not exact, or None.
        """
        states = _run(runner, trie, self.templates, self.texts, self.expected.shape[2], max_batch_tokens=1024)
        cosines = _cosines(states, self.expected)
        worst, median = float(cosines.min()), float(np.median(cosines))
        compared = np.isfinite(self.expected).all(-1)
        bounds = np.broadcast_to(self.min_cosines[:, None, None], compared.shape)[compared]
        too_low = (cosines < bounds).nonzero()[0]
        if len(too_low):
            found = too_low[np.argmin(cosines[too_low])]
            return worst, f"its cosine to transformers is {cosines[found]:.6f}, and {bounds[found]:.6f} is the least"
        if median < self.min_median:
            return worst, f"its median cosine to transformers is {median:.6f}, and {self.min_median:.6f} is the least"
        return worst, None


def make_proof(
    model: Any, tokenizer: PromptTokenizer, templates: TemplateSet, layers: Sequence[int], *, max_tokens: int, quantization: str | None
) -> Proof:
    """Compute what every runner of a model must compute, before a runner takes weights out of it.

    Args:
        model: A transformers base model that takes text, in eval mode.
        tokenizer: Turns whole prompts into token ids.
        templates: The template set.
        layers: Indices into the hidden states.
        max_tokens: Tokens kept of a text; where prompts may be longer than a window of the model, one of the texts is.
        quantization: One of `spec.QUANTIZATIONS`, or None.
    """
    in_float32 = quantization is None and model.dtype != torch.float32
    short = list(_TEXTS_OF_FEW_BITS if quantization is not None and has_experts(model) else _TEXTS)
    n_most = longest_prompt(tokenizer, templates, max_tokens)
    long = _long_texts(model.config.get_text_config(), tokenizer, n_most, max_tokens)

    def encode() -> NDArray[np.float32]:
        states = encode_plainly(model, tokenizer, templates, short, layers)
        if not long:
            return states
        of_first = encode_plainly(model, tokenizer, templates, long, layers, n_templates=1)
        rest = np.full((len(long), *states.shape[1:]), np.nan, np.float32)
        rest[:, :1] = of_first
        return np.concatenate([states, rest])

    expected = encode()
    min_cosine = min_median = MIN_COSINE[model.dtype] if quantization is None else _MIN_QUANTIZED_COSINE[quantization]
    min_cosine_of_long = min_cosine  # it alone shows windows and switches, so one state decides
    if quantization in _MIN_COSINE_OF_ONE and has_experts(model):
        min_cosine = _MIN_COSINE_OF_ONE[quantization]
    if in_float32:
        try:
            with _in_float32(model):
                wide = encode()
        except (RuntimeError, TypeError, ValueError) as error:
            logger.info("the model does not run in float32 (%s): its runners are compared in %s", type(error).__name__, model.dtype)
        else:
            cosines = _cosines(expected, wide)
            min_median = 1 - _MOST_LOST * max(1 - float(np.median(cosines)), _LEAST_LOST)
            min_cosine = min_cosine_of_long = 1 - _MOST_LOST_BY_ONE * max(1 - float(cosines.min()), _LEAST_LOST)
            expected = wide
    min_cosines = np.array([min_cosine] * len(short) + [min_cosine_of_long] * len(long))
    return Proof([*short, *long], expected, min_cosines, min_median, templates, n_most)


def make_own_proof(
    runner: Runner, config: Any, tokenizer: PromptTokenizer, templates: TemplateSet, spec: EmbeddingSpec, n_states: int, dtype: torch.dtype
) -> Proof:
    """Compute what a runner that is proved must compute over another template set: by itself, one whole prompt at a time.

    Args:
        runner: It.
        config: Of the text model.
        tokenizer: Turns whole prompts into token ids.
        templates: The template set.
        spec: What is computed.
        n_states: Hidden states that are read of each prompt.
        dtype: Of weights and activations.
    """
    n_most = longest_prompt(tokenizer, templates, spec.max_tokens)
    texts = [*_TEXTS, *_long_texts(config, tokenizer, n_most, spec.max_tokens)]
    whole = PromptTrie(templates, tokenizer, may_cut=False)
    expected = _run(runner, whole, templates, texts, n_states, max_batch_tokens=1)
    least = MIN_COSINE[dtype if spec.quantization is None else torch.bfloat16]
    return Proof(texts, expected, np.full(len(texts), least), least, templates, n_most)


def _run(
    runner: Runner, trie: PromptTrie, templates: TemplateSet, texts: Sequence[str], n_states: int, max_batch_tokens: int
) -> NDArray[np.float32]:
    """Embed texts with a runner: hidden states of shape ``(n_texts, n_templates, n_states, hidden_size)``."""
    prepared = prepare_texts(texts, trie, templates, max_tokens=10**6, max_batch_tokens=max_batch_tokens, shares_starts=trie.is_cut)
    runner.use_groups(prepared.groups)
    states = np.zeros(0, np.float32)
    for batch in prepared.batches:
        for cell, state in zip(batch, runner.run(batch, prepared.text_ids), strict=True):
            of_cell = state.view(*state.shape[:2], n_states, -1).cpu().numpy()
            if not len(states):
                states = np.zeros((len(texts), len(templates.templates), *of_cell.shape[2:]), np.float32)
            add_states(states, of_cell, cell.rows, prepared.groups[cell.group].template_indices, len(templates.templates))
    runner.use_groups(trie.groups)
    return states


def depends_on_length(config: Any, n_tokens: int) -> bool:
    """Tell whether a prompt of so many tokens is computed otherwise than its own beginning: rotary positions that change with the length.

    Args:
        config: Of the text model.
        n_tokens: Of the longest prompt.
    """
    ropes = _ropes(config)
    switches = [rope.get(_SWITCH) or config.max_position_embeddings for rope in ropes if _is_switching(rope)]
    return any(n_tokens > switch for switch in switches)


def _is_switching(rope: dict[str, Any]) -> bool:
    return rope.get("rope_type") in ("dynamic", "longrope")


def _ropes(config: Any) -> list[dict[str, Any]]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return [rope for rope in (parameters, *parameters.values()) if isinstance(rope, dict)]


def longest_prompt(tokenizer: PromptTokenizer, templates: TemplateSet, max_tokens: int) -> int:
    """Count the tokens that a prompt may have."""
    return int(templates.most_growth * max_tokens) + max(
        len(ids) for ids in tokenizer.tokenize([templates.fill(template, "x") for template in templates.templates])
    )


def find_horizons(config: Any, longest: int) -> list[int]:
    """Find the lengths, below that of the longest prompt, from which on a token sees less, or positions count otherwise."""
    found = [getattr(config, name, None) for name in _HORIZONS] + [rope.get(_SWITCH) for rope in _ropes(config)]
    return [horizon for horizon in found if isinstance(horizon, int) and 0 < horizon < longest]


def _long_texts(config: Any, tokenizer: PromptTokenizer, longest: int, max_tokens: int) -> list[str]:
    """Make a text that reaches beyond the windows and switches which prompts may reach; none where they reach none."""
    horizons = find_horizons(config, longest)
    if not horizons:
        return []
    wanted = min(max(horizons) + _BEYOND, max_tokens)
    n_word = max(1.0, len(tokenizer.tokenize([" ".join(_WORDS)])[0]) / len(_WORDS))
    return [" ".join(_WORDS[index % len(_WORDS)] for index in range(max(1, int(wanted / n_word))))]


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Run a model in float32 inside a `with`: each layer's weights are widened while the layer runs, and are as they were after it.

    Raises:
        TypeError: The model is not made of decoder layers in one list.
    """
    layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = [m for m in model.modules() if id(m) not in inside and (m._parameters or m._buffers)]
    widened: list[tuple[Tensor, Tensor]] = []

    def widen(module: nn.Module, tensors: Iterator[Tensor]) -> None:
        for tensor in tensors:
            if tensor.dtype in (torch.bfloat16, torch.float16):
                widened.append((tensor, tensor.data))
                tensor.data = tensor.data.float()

    def narrow(*_: object) -> None:
        while widened:
            tensor, data = widened.pop()
            tensor.data = data

    hooks = [layer.register_forward_pre_hook(lambda m, _: widen(m, _tensors(m, recurse=True))) for layer in layers]
    hooks += [layer.register_forward_hook(narrow) for layer in layers]
    for module in outside:
        if isinstance(module, nn.Embedding):  # too large to widen, and its rows are what they are
            hooks.append(module.register_forward_hook(lambda _m, _i, rows: rows.float()))
        else:
            hooks.append(module.register_forward_pre_hook(lambda m, _: widen(m, _tensors(m, recurse=False))))
            hooks.append(module.register_forward_hook(narrow))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        narrow()


def _tensors(module: nn.Module, *, recurse: bool) -> Iterator[Tensor]:
    yield from module.parameters(recurse=recurse)
    yield from module.buffers(recurse=recurse)


def _cosines(a: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the cosines of matching states where something is expected; -1 where a state is not finite."""
    compared = np.isfinite(expected).all(-1)
    cosines: NDArray[np.float64] = (unit_rows(a[compared]) * unit_rows(expected[compared])).sum(1)
    return np.nan_to_num(cosines, nan=-1.0)
