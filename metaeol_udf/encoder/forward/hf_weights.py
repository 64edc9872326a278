"""From transformers' models to `Decoder`: which weights stand where in each family.

An architecture that is not here, or whose configuration asks for something `Decoder` cannot say, gives None; the encoder
then runs transformers' own forward. Whatever is built here is checked against that forward before it is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from metaeol_udf.encoder.checkpoint.architectures import DECODER_TYPES
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
    *("pretraining_tp", "final_logit_softcapping", "max_window_layers", "use_sliding_window", "_sliding_window_pattern", "n_inner"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
})  # fmt: skip
_ROTARY = frozenset({
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"),
    *("hidden_act", "hidden_activation", "attention_bias", "mlp_bias", "max_position_embeddings", "rope_parameters", "rope_theta"),
    *("rope_scaling", "sliding_window", "layer_types", "attn_logit_softcapping", "query_pre_attn_scalar"),
})  # fmt: skip
#: Settings that may differ from their defaults, as a builder reads them, or takes weights and modules that were made by them.
_READS: dict[str, frozenset[str]] = {
    **dict.fromkeys(DECODER_TYPES, _ROTARY),
    "gpt2": frozenset({
        *("n_embd", "n_head", "n_layer", "n_positions", "activation_function", "layer_norm_epsilon", "add_cross_attention"),
        *("reorder_and_upcast_attn", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    }),
    "opt": frozenset({
        *("hidden_size", "ffn_dim", "num_attention_heads", "num_hidden_layers", "max_position_embeddings", "word_embed_proj_dim"),
        *("activation_function", "do_layer_norm_before", "enable_bias", "_remove_final_layer_norm"),
    }),
}  # fmt: skip

_STATIC_ROPES = ("default", "linear", "llama3", "yarn")  # tables that do not depend on the length of the prompt


Collect = Callable[[Iterable[Layer]], list[Layer]]


def unread_settings(config: Any) -> list[str]:
    """Name the settings of a known family that differ from their defaults and that no builder reads: another runner takes such a model.

    Settings that transformers' own class does not know change nothing there either, and are passed over.
    """
    defaults, values = type(config)().to_dict(), config.to_dict()
    known = _READS[config.model_type] | _WITHOUT_EFFECT | PretrainedConfig().to_dict().keys()
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
    config, build = model.config, BUILDERS.get(model.config.model_type)
    names = (getattr(config, name, None) for name in ("hidden_activation", "hidden_act", "activation_function"))
    activation = next((name for name in names if name), None)
    if build is None or activation not in _ACTIVATIONS:
        return None
    decoder = build(model, n_positions, lambda layers: [convert(index, layer) for index, layer in enumerate(islice(layers, n_layers))])
    if decoder is not None and n_layers is not None and n_layers < config.num_hidden_layers:
        decoder = dataclasses.replace(decoder, final_norm=None)
    return decoder


def _build_rotary(model: Any, n_positions: int, collect: Collect) -> Decoder | None:
    """Build the decoder of Llama, Mistral, Qwen2, Qwen3 and Gemma 1 to 3: RMSNorm, rotary positions, gated MLP."""
    config = model.config
    kinds = list(getattr(config, "layer_types", None) or [])
    kinds = kinds or ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * len(model.layers)
    if set(kinds) - {"sliding_attention", "full_attention"}:
        return None
    ropes = _rotary_tables(model, kinds, n_positions)
    head_dim = model.layers[0].self_attn.head_dim
    if ropes is None or next(iter(ropes.values())).shape[1] * 2 != head_dim:
        return None
    names = list(ropes)
    layers = collect(
        _rotary_layer(block, kind, names.index(kind) if kind in names else 0, config)
        for block, kind in zip(model.layers, kinds, strict=True)
    )
    scale = getattr(model.embed_tokens, "embed_scale", None)
    return Decoder(
        token_table=model.embed_tokens.weight,
        token_scale=None if scale is None else scale.to(model.embed_tokens.weight.dtype),
        position_table=None,
        ropes=tuple(ropes.values()),
        layers=layers,
        final_norm=_rms_norm(model.norm),
        softcap=getattr(config, "attn_logit_softcapping", None),
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
    )


def _rotary_layer(block: Any, kind: str, rope: int, config: Any) -> Layer:
    attention, mlp = block.self_attn, block.mlp
    pairs = _pairs(attention.head_dim)
    activation = _ACTIVATIONS[getattr(config, "hidden_activation", None) or config.hidden_act]
    has_four_norms = hasattr(block, "pre_feedforward_layernorm")
    return Layer(
        attention_norm=_rms_norm(block.input_layernorm),
        qkv=_stack([attention.q_proj, attention.k_proj, attention.v_proj], [pairs, pairs, None]),
        q_norm=_rms_norm(attention.q_norm, pairs) if hasattr(attention, "q_norm") else None,
        k_norm=_rms_norm(attention.k_norm, pairs) if hasattr(attention, "k_norm") else None,
        attention_out=_linear(attention.o_proj),
        after_attention_norm=_rms_norm(block.post_attention_layernorm) if has_four_norms else None,
        mlp_norm=_rms_norm(block.pre_feedforward_layernorm if has_four_norms else block.post_attention_layernorm),
        mlp=Mlp(_stack([mlp.gate_proj, mlp.up_proj]), _linear(mlp.down_proj), activation, is_gated=True),
        after_mlp_norm=_rms_norm(block.post_feedforward_layernorm) if has_four_norms else None,
        scaling=attention.scaling,
        window=config.sliding_window if kind == "sliding_attention" else None,
        rope=rope,
    )


def _pairs(head_dim: int) -> Tensor:
    """Return the rows of a head in another order: halves rotate with each other, and what rotates together is to stand side by side."""
    return torch.arange(head_dim).view(2, -1).t().flatten()


def _rotary_tables(model: Any, kinds: Sequence[str], n_positions: int) -> dict[str, Tensor] | None:
    """Return cosines and sines from the model's own rotary module as complex numbers, for each kind of layer that has its own."""
    parameters = model.config.rope_parameters
    per_kind = not isinstance(parameters.get("rope_type"), str)
    types = [p["rope_type"] for p in parameters.values() if p] if per_kind else [parameters["rope_type"]]
    if not set(types) <= set(_STATIC_ROPES):
        return None
    positions = torch.arange(n_positions, device=model.device)[None]
    like = model.embed_tokens.weight[:1].float()
    tables = {}
    for kind in dict.fromkeys(kinds) if per_kind else ["every layer"]:
        cos, sin = model.rotary_emb(like, positions, kind) if per_kind else model.rotary_emb(like, positions)
        half = cos.shape[-1] // 2
        tables[kind] = torch.complex(cos[0, :, :half], sin[0, :, :half])
    return tables


def _build_gpt2(model: Any, n_positions: int, collect: Collect) -> Decoder | None:
    config = model.config
    if config.add_cross_attention or config.reorder_and_upcast_attn:
        return None
    activation = _ACTIVATIONS[config.activation_function]
    layers = collect(
        _layer_norm_layer(
            block.ln_1, _transposed(block.attn.c_attn), _transposed(block.attn.c_proj),
            block.ln_2, Mlp(_transposed(block.mlp.c_fc), _transposed(block.mlp.c_proj), activation, is_gated=False), block.attn.scaling,
        )
        for block in model.h
    )  # fmt: skip
    return _learned_positions(model.wte, model.wpe.weight, layers, model.ln_f, config)


def _build_opt(model: Any, n_positions: int, collect: Collect) -> Decoder | None:
    decoder, config = model.decoder, model.config
    if not config.do_layer_norm_before or decoder.final_layer_norm is None or decoder.project_in is not None:
        return None
    activation = _ACTIVATIONS[config.activation_function]
    layers = collect(
        _layer_norm_layer(
            block.self_attn_layer_norm, _stack([block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]),
            _linear(block.self_attn.out_proj), block.final_layer_norm,
            Mlp(_linear(block.fc1), _linear(block.fc2), activation, is_gated=False), block.self_attn.scaling,
        )
        for block in decoder.layers
    )  # fmt: skip
    positions = decoder.embed_positions
    table = positions.weight[positions.offset :]
    return _learned_positions(decoder.embed_tokens, table, layers, decoder.final_layer_norm, config)


def _learned_positions(tokens: Any, positions: Tensor, layers: list[Layer], norm: Any, config: Any) -> Decoder:
    return Decoder(
        token_table=tokens.weight, token_scale=None, position_table=positions, ropes=(), layers=layers,
        final_norm=_layer_norm(norm), softcap=None,
        n_heads=config.num_attention_heads, n_kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
    )  # fmt: skip


def _layer_norm_layer(norm: Any, qkv: Linear, out: Linear, mlp_norm: Any, mlp: Mlp, scaling: float) -> Layer:
    return Layer(
        attention_norm=_layer_norm(norm), qkv=qkv, q_norm=None, k_norm=None, attention_out=out, after_attention_norm=None,
        mlp_norm=_layer_norm(mlp_norm), mlp=mlp, after_mlp_norm=None, scaling=scaling,
    )  # fmt: skip


def _rms_norm(norm: Any, order: Tensor | None = None) -> Norm:
    """Convert an RMSNorm. Gemma keeps ``weight - 1``; `order` is that of a head's rows."""
    is_gemma = type(norm).__name__.startswith("Gemma")
    weight = norm.weight.float() + (1.0 if is_gemma else 0.0)
    return Norm(weight if order is None else weight[order], None, norm.eps if is_gemma else norm.variance_epsilon)


def _layer_norm(norm: Any) -> Norm:
    return Norm(norm.weight, norm.bias, norm.eps, centers=True)


def _check_plain(module: Any, kind: type[torch.nn.Module] = torch.nn.Linear) -> None:
    """See that a module's weights are what they seem: a quantised layer keeps others under the same name, with scales beside them."""
    if type(module) is not kind or module.weight.dtype not in _DTYPES:
        raise TypeError(f"{type(module).__name__} with weights of {module.weight.dtype}")


def _linear(module: Any) -> Linear:
    _check_plain(module)
    linear = Linear(module.weight, module.bias)
    _release([module])
    return linear


def _transposed(conv: Any) -> Linear:
    """Convert a projection of GPT-2, which stores projections as ``(n_in, n_out)``."""
    _check_plain(conv, Conv1D)
    linear = Linear(conv.weight.t().contiguous(), conv.bias)
    _release([conv])
    return linear


def _stack(modules: Sequence[Any], orders: Sequence[Tensor | None] = ()) -> Linear:
    """Join projections of the same input into one, and give up the originals at once: weights are never held twice.

    Args:
        modules: The projections.
        orders: For each, the order of rows in its heads; None, or nothing at all, leaves them as they are.
    """
    for module in modules:
        _check_plain(module)
    orders = orders or [None] * len(modules)
    weight = torch.cat([_reordered(module.weight, order) for module, order in zip(modules, orders, strict=True)])
    has_bias = modules[0].bias is not None
    bias = torch.cat([_reordered(module.bias, order) for module, order in zip(modules, orders, strict=True)]) if has_bias else None
    _release(modules)
    return Linear(weight, bias)


def _reordered(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows if order is None else rows.view(-1, len(order), *rows.shape[1:])[:, order].flatten(0, 1)


def _release(modules: Sequence[Any]) -> None:
    for module in modules:
        module.weight = torch.nn.Parameter(module.weight.new_empty(0), requires_grad=False)


#: Of the architectures that `checkpoint/architectures.py` names.
BUILDERS: dict[str, Callable[[Any, int, Collect], Decoder | None]] = {
    **dict.fromkeys(DECODER_TYPES, _build_rotary),
    "gpt2": _build_gpt2,
    "opt": _build_opt,
}
