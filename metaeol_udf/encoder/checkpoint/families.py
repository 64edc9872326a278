"""Model families that our own decoder runs, as data: where a model keeps its weights, and which settings it may set.

A family is an entry of `FAMILIES`, mostly another one with a few differences. `forward/hf_weights.py` makes a decoder by it, and the proof
at load compares that decoder with transformers. Needs no torch: a driver reads the names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """Describes a family: dotted names of modules and attributes, and what they mean.

    Attributes:
        reads: Settings that may differ from their defaults. Another one that does sends the model to the next runner.
        layers: The list of layers; this and the next four are names in the model.
        token_table: Token embeddings.
        token_scale: What multiplies them, or None.
        position_table: Learned positions; None where positions are rotary.
        final_norm: The norm above the layers.
        must_lack: Modules in the model that the decoder does not know: there must be none.
        attention: The module that knows `head_dim` and `scaling`; this and the rest are names in a layer.
        qkv: Projections to queries, keys and values: three, or one that holds them in this order.
        attention_out: The projection after attention.
        q_norm: Norm of the queries before they are rotated, of each head or of all heads together by the length of its weight; or None.
        k_norm: The same of the keys.
        attention_norm: Before attention; this and the next three are None where a family has no such norm.
        after_attention_norm: Before attention is added.
        mlp_norm: Before the MLP.
        after_mlp_norm: Before the MLP is added.
        mlp_into: Projections into the MLP: gate and up, one that holds both in this order, or, where `is_gated` is false, one.
        mlp_out: The projection out of the MLP.
        is_gated: Whether the activated gate multiplies the up projection.
        norms: RMSNorm, RMSNorm whose weight is kept less one, or LayerNorm.
        is_partial: Whether the end of a head may stay unrotated.
        has_windows: Whether `sliding_window` and `layer_types` mean something.
        softcap: The setting with the soft cap of scores, or None.
    """

    reads: frozenset[str]
    layers: str = "layers"
    token_table: str = "embed_tokens"
    token_scale: str | None = None
    position_table: str | None = None
    final_norm: str = "norm"
    must_lack: tuple[str, ...] = ()
    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    attention_out: str = "self_attn.o_proj"
    q_norm: str | None = None
    k_norm: str | None = None
    attention_norm: str | None = "input_layernorm"
    after_attention_norm: str | None = None
    mlp_norm: str | None = "post_attention_layernorm"
    after_mlp_norm: str | None = None
    mlp_into: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_out: str = "mlp.down_proj"
    is_gated: bool = True
    norms: Literal["rms", "rms less one", "layer"] = "rms"
    is_partial: bool = False
    has_windows: bool = False
    softcap: str | None = None

    def but(self, *, also_reads: tuple[str, ...] = (), **changes: Any) -> Family:
        """Return a family that differs in a few things, and that may set a few settings more."""
        return dataclasses.replace(self, reads=self.reads | set(also_reads), **changes)


_WINDOWS: dict[str, Any] = {"has_windows": True, "also_reads": ("sliding_window", "layer_types")}
_QK_NORMS: dict[str, Any] = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}

LLAMA = Family(
    reads=frozenset({
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("rms_norm_eps", "hidden_act", "attention_bias", "mlp_bias", "max_position_embeddings"),
        *("rope_parameters", "rope_theta", "rope_scaling"),
    }),
)  # fmt: skip
GEMMA = LLAMA.but(norms="rms less one", token_scale="embed_tokens.embed_scale", also_reads=("hidden_activation",))
GEMMA2 = GEMMA.but(
    after_attention_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    after_mlp_norm="post_feedforward_layernorm",
    softcap="attn_logit_softcapping",
    has_windows=True,
    also_reads=("sliding_window", "layer_types", "attn_logit_softcapping", "query_pre_attn_scalar"),
)
OLMO2 = LLAMA.but(
    **_QK_NORMS,
    attention_norm=None,
    after_attention_norm="post_attention_layernorm",
    mlp_norm=None,
    after_mlp_norm="post_feedforward_layernorm",
)
GPT2 = Family(
    reads=frozenset({
        *("n_embd", "n_head", "n_layer", "n_positions", "activation_function", "layer_norm_epsilon"),
        *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    }),
    layers="h", token_table="wte", position_table="wpe", final_norm="ln_f",
    attention="attn", qkv=("attn.c_attn",), attention_out="attn.c_proj",
    attention_norm="ln_1", mlp_norm="ln_2", mlp_into=("mlp.c_fc",), mlp_out="mlp.c_proj", is_gated=False, norms="layer",
)  # fmt: skip
OPT = Family(
    reads=frozenset({
        *("hidden_size", "ffn_dim", "num_attention_heads", "num_hidden_layers", "max_position_embeddings", "word_embed_proj_dim"),
        *("activation_function", "enable_bias"),
    }),
    layers="decoder.layers", token_table="decoder.embed_tokens", position_table="decoder.embed_positions",
    final_norm="decoder.final_layer_norm", must_lack=("decoder.project_in", "decoder.project_out"),
    attention_out="self_attn.out_proj", attention_norm="self_attn_layer_norm", mlp_norm="final_layer_norm",
    mlp_into=("fc1",), mlp_out="fc2", is_gated=False, norms="layer",
)  # fmt: skip

#: By the name of an architecture in transformers.
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA.but(**_WINDOWS),
    "qwen2": LLAMA.but(**_WINDOWS),
    "qwen3": LLAMA.but(**_QK_NORMS, **_WINDOWS),
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2.but(**_QK_NORMS, softcap=None),
    "gpt2": GPT2,
    "opt": OPT,
    "olmo2": OLMO2,
    "olmo3": OLMO2.but(**_WINDOWS),
    "phi3": LLAMA.but(
        qkv=("self_attn.qkv_proj",), mlp_into=("mlp.gate_up_proj",), is_partial=True, has_windows=True,
        also_reads=("sliding_window", "partial_rotary_factor", "original_max_position_embeddings"),
    ),
}  # fmt: skip
