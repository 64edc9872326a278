"""From transformers' models to `Decoder`: reads weights where `checkpoint/families.py` says that a family has them.

An architecture that has no entry there, or whose configuration asks for something `Decoder` cannot say, gives None; another runner
then takes it. Whatever is built here is checked against transformers' own forward before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from metaeol_udf.encoder.checkpoint.families import FAMILIES, Family
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Linear, Mlp, Norm

#: transformers' names of the activations that `Decoder` has.
_ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), "silu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"),
    "gelu": "gelu",
    "relu": "relu",
}

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: Settings that change no hidden state, as weights or kinds of layers say the same; and those of training and of output.
_WITHOUT_EFFECT = frozenset({
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache", "cache_implementation", "vocab_size"),
    *("initializer_range", "init_std", "attention_dropout", "dropout", "layerdrop", "attn_pdrop", "embd_pdrop", "resid_pdrop"),
    *("pretraining_tp", "final_logit_softcapping", "logits_scaling", "max_window_layers", "use_sliding_window"),
    *("_sliding_window_pattern", "n_inner"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
})  # fmt: skip

_STATIC_ROPES = ("default", "linear", "llama3", "yarn")  # tables that do not depend on the length of the prompt
_SWITCHING_ROPE = "longrope"  # one table up to a length, another one in prompts that are longer
_EVERY_LAYER = "every layer"


def unread_settings(config: Any) -> list[str]:
    """Name the settings of a known family that differ from their defaults and that it does not read: another runner takes such a model.

    Settings that transformers' own class does not know change nothing there either, and are passed over.
    """
    defaults, values = type(config)().to_dict(), config.to_dict()
    known = FAMILIES[config.model_type].reads | _WITHOUT_EFFECT | PretrainedConfig().to_dict().keys()
    return sorted(name for name, default in defaults.items() if name not in known and (values.get(name) or False) != (default or False))


def build_decoder(
    model: Any, n_positions: int, n_layers: int | None = None, convert: Callable[[int, Layer], Layer] = lambda _, layer: layer
) -> Decoder | None:
    """Describe a transformers base model as a `Decoder`, or None where its architecture is not known.

    The model gives up its linear layers' weights one layer after the other, as they are converted.

    Args:
        model: A base model without its language-model head, in eval mode.
        n_positions: Positions to make rotary tables for.
        n_layers: Where to end; what lies above, the final norm too, is left out. None: all.
        convert: Packs or quantizes a layer, given its index too, before the next one is read.
    """
    config, family = model.config, FAMILIES.get(model.config.model_type)
    names = (getattr(config, name, None) for name in ("hidden_activation", "hidden_act", "activation_function"))
    activation = next((name for name in names if name), None)
    if family is None or activation not in _ACTIVATIONS or any(_find(model, name) is not None for name in family.must_lack):
        return None
    blocks = _find(model, family.layers)
    kinds, head_dim = _layer_kinds(family, config, len(blocks)), _find(blocks[0], family.attention).head_dim
    tables = {} if family.position_table else _rotary_tables(model, kinds, n_positions)
    if tables is None or set(kinds) - {"sliding_attention", "full_attention"}:
        return None
    widths = {2 * table.shape[1] for table in tables.values()}
    if not (widths == {head_dim} or not widths or (family.is_partial and len(widths) == 1)):
        return None
    ropes = {kind: _padded(table, head_dim) for kind, table in tables.items()}
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    order = _row_order(widths.pop(), head_dim) if widths else None
    reader = _Reader(
        family, _ACTIVATIONS[activation], n_heads, n_kv_heads, head_dim, order, list(ropes), getattr(config, "sliding_window", None)
    )
    read = (reader.layer(block, kind) for block, kind in zip(blocks, kinds, strict=True))
    positions = None if family.position_table is None else _find(model, family.position_table)
    return Decoder(
        token_table=_find(model, family.token_table).weight,
        token_scale=_token_scale(model, family),
        position_table=None if positions is None else positions.weight[getattr(positions, "offset", 0) :],
        ropes=tuple(ropes.values()),
        layers=[convert(index, layer) for index, layer in enumerate(islice(read, n_layers))],
        final_norm=None if n_layers is not None and n_layers < len(blocks) else _norm(_find(model, family.final_norm), family),
        softcap=None if family.softcap is None else getattr(config, family.softcap),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
    )


def _find(root: Any, name: str) -> Any:
    """Return what a dotted name means in a model or a layer."""
    return attrgetter(name)(root)


def _layer_kinds(family: Family, config: Any, n_layers: int) -> list[str]:
    """Return the kind of attention of each layer, as transformers names it."""
    if not family.has_windows:
        return ["full_attention"] * n_layers
    kinds = list(getattr(config, "layer_types", None) or [])
    return kinds or ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * n_layers


def _token_scale(model: Any, family: Family) -> Tensor | None:
    if family.token_scale is None:
        return None
    scale = _find(model, family.token_scale)
    # A number multiplies as it is; what a model keeps as a tensor is rounded to the dtype of its embeddings first.
    return scale.to(_find(model, family.token_table).weight.dtype) if isinstance(scale, Tensor) else torch.tensor(float(scale))


@dataclass(frozen=True)
class _Reader:
    """Reads layers of a model; the model gives their weights up.

    Attributes:
        family: Says what stands where.
        activation: A key of `ACTIVATIONS`.
        n_heads, n_kv_heads, head_dim: See `Decoder`.
        order: Of the rows of a head of queries or keys, which brings together what rotates together; None leaves them as they are.
        ropes: Kinds of layers that have a rotary table, in the tables' order.
        window: Of the layers that have one.
    """

    family: Family
    activation: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    order: Tensor | None
    ropes: list[str]
    window: int | None

    def layer(self, block: Any, kind: str) -> Layer:
        """Read a layer of a kind of attention."""
        family = self.family
        return Layer(
            attention_norm=self._norm(block, family.attention_norm),
            qkv=self._qkv([_find(block, name) for name in family.qkv]),
            q_norm=self._norm(block, family.q_norm, of_heads=True),
            k_norm=self._norm(block, family.k_norm, of_heads=True),
            attention_out=_stack([_find(block, family.attention_out)]),
            after_attention_norm=self._norm(block, family.after_attention_norm),
            mlp_norm=self._norm(block, family.mlp_norm),
            mlp=Mlp(
                _stack([_find(block, name) for name in family.mlp_into]), _stack([_find(block, family.mlp_out)]), self.activation,
                is_gated=family.is_gated,
            ),
            after_mlp_norm=self._norm(block, family.after_mlp_norm),
            scaling=_find(block, family.attention).scaling,
            window=self.window if kind == "sliding_attention" else None,
            rope=self.ropes.index(kind) if kind in self.ropes else 0,
        )  # fmt: skip

    def _norm(self, block: Any, name: str | None, of_heads: bool = False) -> Norm | None:
        return None if name is None else _norm(_find(block, name), self.family, self.order if of_heads else None)

    def _qkv(self, modules: Sequence[Any]) -> Linear:
        """Read the projections to queries, keys and values, the rows of queries and keys in their order."""
        if self.order is None:
            return _stack(modules)
        of_heads = [self.order + head * self.head_dim for head in range(self.n_heads + self.n_kv_heads)]
        n_values = self.n_kv_heads * self.head_dim
        values = torch.arange(n_values) + len(of_heads) * self.head_dim
        return _stack(modules, torch.cat([*of_heads, values]))


def _row_order(n_rotated: int, head_dim: int) -> Tensor:
    """Return the rows of a head in another order: halves rotate with each other, and what rotates together is to stand side by side."""
    return torch.cat([torch.arange(n_rotated).view(2, -1).t().flatten(), torch.arange(n_rotated, head_dim)])


def _rotary_tables(model: Any, kinds: Sequence[str], n_positions: int) -> dict[str, Tensor] | None:
    """Return cosines and sines from the model's own rotary module as complex numbers, for each kind of layer that has its own."""
    parameters = model.config.rope_parameters
    per_kind = not isinstance(parameters.get("rope_type"), str)
    ropes = [rope for rope in parameters.values() if rope] if per_kind else [parameters]
    if not {rope["rope_type"] for rope in ropes} <= {*_STATIC_ROPES, _SWITCHING_ROPE}:
        return None
    # A prompt beyond the switch rotates otherwise from its first token on: no table of ours is right for it.
    switches = [rope["original_max_position_embeddings"] for rope in ropes if rope["rope_type"] == _SWITCHING_ROPE]
    positions = torch.arange(min(n_positions, *switches) if switches else n_positions, device=model.device)[None]
    like = model.get_input_embeddings().weight[:1].float()
    tables = {}
    for kind in dict.fromkeys(kinds) if per_kind else [_EVERY_LAYER]:
        cos, sin = model.rotary_emb(like, positions, kind) if per_kind else model.rotary_emb(like, positions)
        half = cos.shape[-1] // 2
        table = torch.complex(cos[0, :, :half], sin[0, :, :half])
        tables[kind] = torch.cat([table, table.new_full((n_positions - len(table), half), torch.nan)])
    return tables


def _padded(table: Tensor, head_dim: int) -> Tensor:
    """Let what lies beyond a table's width stay as it is."""
    return torch.cat([table, table.new_ones(len(table), head_dim // 2 - table.shape[1])], dim=1)


def _norm(norm: Any, family: Family, order: Tensor | None = None) -> Norm:
    """Convert a norm; `order` is that of a head's rows."""
    if family.norms == "layer":
        return Norm(norm.weight, norm.bias, norm.eps, centers=True)
    weight = norm.weight.float() + (1.0 if family.norms == "rms less one" else 0.0)
    weight = weight if order is None else weight.view(-1, len(order))[:, order].flatten()
    return Norm(weight, None, norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)


def _stack(modules: Sequence[Any], order: Tensor | None = None) -> Linear:
    """Join projections of the same input into one, and give up the originals at once: weights are never held twice.

    Args:
        modules: The projections; or one alone.
        order: Of the rows of the whole; None leaves them as they are.

    Raises:
        TypeError: Weights are not what they seem: a quantised layer keeps others under the same name, with scales beside them.
    """
    for module in modules:
        if type(module) not in (torch.nn.Linear, Conv1D) or module.weight.dtype not in _DTYPES:
            raise TypeError(f"{type(module).__name__} with weights of {module.weight.dtype}")
    if len({module.bias is None for module in modules}) > 1:
        raise TypeError("some projections of one input have a bias and others have none")
    # GPT-2 keeps its projections as (n_in, n_out).
    weights = [module.weight.t() if type(module) is Conv1D else module.weight for module in modules]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0].contiguous()
    bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules])
    if order is not None:
        weight, bias = weight[order], None if bias is None else bias[order]
    for module in modules:
        module.weight = torch.nn.Parameter(module.weight.new_empty(0), requires_grad=False)
    return Linear(weight, bias)
