"""A tiny model of any architecture that transformers has for causal language models: sizes small, kinds of layers mixed, weights random.

Windows and chunks are shorter than prompts, so that a wrong one shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

N_LAYERS = 4

#: Sizes by the names that configurations have for them.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_dim", "word_embed_proj_dim", "attention_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), N_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff"), 96),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("expert_ffn_hidden_size", "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "attention_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("linear_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"), 2),
    **dict.fromkeys(("num_shared_experts", "n_shared_experts", "moe_num_shared_experts", "n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_attention"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"), 1024),
    **dict.fromkeys(("index_topk", "query_pre_attn_scalar", "chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), 1024),
    "attention_chunk_size": 32, "zero_expert_num": 2,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "rotary_dim": 8, "first_k_dense_replace": 1, "num_dense_layers": 1, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 1,
    "laurel_rank": 8, "o_lora_rank": 16, "o_groups": 2, "index_n_heads": 2, "gated_norm_rank": 8, "router_hidden_size": 16,
    "mamba_n_heads": 8, "mamba_num_heads": 8, "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_headdim": 16, "mamba_d_state": 16,
    "ssm_state_size": 16, "state_size": 16, "mamba_d_ssm": 128, "n_mamba_heads": 2, "n_groups": 1, "mamba_n_groups": 1,
    "mamba_dt_rank": 8, "time_step_rank": 8,
    "linear_num_heads": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "lru_width": 64, "block_multiple_of": 16, "adapter_rank": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
    "d_rel": 8, "rel_extent": 64, "no_rope_layer_interval": 2, "sliding_window_pattern": 2, "dim_model_base": 64, "layer_group_size": 2,
    "max_window_layers": 2,
}  # fmt: skip
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ALSO_IF_NONE = ("head_dim", "num_key_value_heads", "intermediate_size", "num_experts_per_tok")
_MIXED = ["full_attention", "sliding_attention"] * 2
#: What a family needs beside them; `...` leaves a setting as it is.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": ...},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "cohere_compass_text": {"layer_types": _MIXED},
    "starcoder2": {"sliding_window": 24},
    "gemma3_text": {"layer_types": _MIXED}, "gemma3": {"layer_types": _MIXED},
}  # fmt: skip


def tiny_config(model_type: str) -> Any:
    """Make the configuration of a tiny model that takes text.

    Args:
        model_type: A key of transformers' mapping of causal language models.
    """
    return tiny_config_of(CONFIG_MAPPING[model_type]().get_text_config(), _OWN.get(model_type))


def tiny_config_of(config: Any, own: dict[str, Any] | None = None) -> Any:
    """Make a tiny configuration of the same architecture; `own` are settings that it needs."""
    plain = config.to_dict()
    options: dict[str, Any] = {
        name: size for name, size in _SIZES.items() if name in plain and (plain[name] is not None or name in _ALSO_IF_NONE)
    }
    if "qk_rope_head_dim" in plain:  # heads of queries and values have sizes of their own
        options |= {"head_dim": ..., "num_key_value_heads": 4}
    options |= {name: _mix(value) for name, value in plain.items() if _is_per_layer(name, value)}
    options |= {**_IDS, **(own or _OWN.get(config.model_type, {}))}
    return type(config)(**{name: value for name, value in options.items() if value is not ...})


def _is_per_layer(name: str, value: Any) -> bool:
    return isinstance(value, list) and len(value) > N_LAYERS - 2 and ("layer" in name or "types" in name or "pattern" in name)


def _mix(values: list[Any]) -> list[Any]:
    """Take as many values as there are layers, every one that occurs if there is room."""
    kinds = list(dict.fromkeys(values))
    return [kinds[index % len(kinds)] for index in range(N_LAYERS)] if len(kinds) > 1 else values[:1] * N_LAYERS


def random_model(config: Any, seed: int = 7) -> Any:
    """Make a base model with random weights under which norms, biases and attention all matter."""
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        # The usual initial weights are so small that attention is nearly uniform and a wrong mask would not show.
        nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 0.1)
        if parameter.dim() == 1 and "norm" in name and "gemma" not in config.model_type and name.endswith("weight"):
            parameter.data += 1.0
    return model.eval().requires_grad_(False)


def tiny_wrapper_config(name: str) -> Any:
    """Make the configuration of a tiny model that sees pictures too, and hears if it can, around a tiny text model.

    Args:
        name: A key of transformers' mapping of models from pictures and text to text.
    """
    kind = CONFIG_MAPPING[name]
    plain = kind()
    text = tiny_config_of(plain.get_text_config())
    towers = {}
    for tower in ("vision_config", "audio_config"):
        of_tower = getattr(plain, tower, None) or (kind.sub_configs[tower]() if tower in kind.sub_configs else None)
        if of_tower is None:
            continue
        sizes = {
            **dict.fromkeys(("hidden_size", "out_hidden_size", "embed_dim"), 32),
            **dict.fromkeys(("num_hidden_layers", "depth", "num_layers"), 1),
            **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads"), 2),
            **dict.fromkeys(("intermediate_size",), 48), **dict.fromkeys(("head_dim",), 16),
        }  # fmt: skip
        given = of_tower.to_dict()
        towers[tower] = type(of_tower)(**{key: size for key, size in sizes.items() if given.get(key) is not None})
        if hasattr(of_tower, "out_hidden_size"):
            towers[tower].out_hidden_size = text.hidden_size
        if hasattr(of_tower, "deepstack_visual_indexes"):
            towers[tower].deepstack_visual_indexes = [0]
    return kind(text_config=text, **towers)


def save_any_tiny_model(config: Any, folder: Path, tokenizer: Any = None) -> Path:
    """Write a checkpoint with random weights of a configuration, with a byte-level tokenizer.

    Args:
        config: Of the model.
        folder: Where it goes.
        tokenizer: Another tokenizer, of the library of that name.
    """
    from tests.tiny_models import byte_level

    random_model(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer or byte_level()).save_pretrained(folder)
    return folder
