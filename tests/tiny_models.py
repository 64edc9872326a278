"""Tiny models with random weights, one of each shape, and tokenizers of the kinds that real models have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.tiny_configs import random_model, tiny_config

WORDS = [
    "the", "a", "sentence", "text", "means", "in", "one", "word", "its", "main", "topic", "feeling", "idea", "fact", "is", "are",
    "was", "of", "and", "to", "for", "with", "that", "this", "it", "he", "she", "they", "people", "river", "guitar", "music", "good",
    "bad", "new", "old", "great", "small", "read", "write", "play", "run", "eat", "see", "say", "go", "come", "take", "make", "know",
    "think", "work", "day",
]  # fmt: skip


def _corpus() -> list[str]:
    rng = random.Random(7)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(3, 14))) + rng.choice([".", "?", "!", ' "', "'s", " ..."]) for _ in range(2000)]
    return [*lines, 'This sentence: "x" means in one word: "', "日本語 العربية русский", "don't {text} <s> </s> <|end|>"] * 2


def byte_level() -> Tokenizer:
    """GPT-2's kind: bytes, merges inside words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    """Llama 2's and Gemma's kind: spaces become a letter, one is put in front, unknown characters fall back to bytes, BOS is added."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=800, special_tokens=specials, show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def closing() -> Tokenizer:
    """A kind that puts a token after the prompt as well, which then is the last one."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"byte_level": byte_level, "sentencepiece_like": sentencepiece_like, "closing": closing}

_SHARED = {"vocab_size": 1024, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 1024}
_GATED = {**_SHARED, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 8}
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def configs() -> dict[str, Any]:
    """One configuration a shape; windows are short so that they matter."""
    layer_norm = {**_SHARED, **_IDS}
    gpt2 = {"vocab_size": 1024, "n_embd": 48, "n_layer": 4, "n_head": 6, "n_positions": 1024, **_IDS}
    kinds = ["sliding_attention", "full_attention"] * 2
    return {
        "llama": transformers.LlamaConfig(**_GATED, **_IDS),
        "llama3-rope": transformers.LlamaConfig(**_GATED, **_IDS, rope_parameters=_LLAMA3_ROPE),
        "mistral": transformers.MistralConfig(**_GATED, **_IDS, sliding_window=24),
        "qwen2": transformers.Qwen2Config(**{k: v for k, v in _GATED.items() if k != "head_dim"}, **_IDS),
        "qwen3": transformers.Qwen3Config(**_GATED, **_IDS),
        "gemma": transformers.GemmaConfig(**_GATED, **_IDS),
        "gemma2": transformers.Gemma2Config(**_GATED, **_IDS, sliding_window=24, query_pre_attn_scalar=12, attn_implementation="eager"),
        "gemma3": transformers.Gemma3TextConfig(**_GATED, **_IDS, sliding_window=24, query_pre_attn_scalar=12, layer_types=kinds),
        "gpt2": transformers.GPT2Config(**gpt2),
        "opt": transformers.OPTConfig(**layer_norm, ffn_dim=96, word_embed_proj_dim=48),
        "gpt_neox": transformers.GPTNeoXConfig(**layer_norm, intermediate_size=96),
        "phi3": transformers.Phi3Config(**{k: v for k, v in _GATED.items() if k != "head_dim"}, **_IDS),
    }


def save_tiny_model(folder: Path, shape: str, tokenizer: str = "byte_level", *, head: bool = False) -> Path:
    """Write a checkpoint with random weights: of a shape in `configs`, or of an architecture by its name in transformers.

    A model with a `head` says next words of its own, so its weights are wider.
    """
    config = configs()[shape] if shape in configs() else tiny_config(shape)
    if head:
        torch.manual_seed(11)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    else:
        model = random_model(config, sum(map(ord, shape)))
    model.save_pretrained(folder)
    backend = TOKENIZERS[tokenizer]()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"]
    return folder
