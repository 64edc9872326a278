"""Token ids of prompts, from any of transformers' tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PromptTokenizer:
    """A tokenizer under which a text is only ever data: special tokens that stand in it are split like other characters.

    Special tokens that the tokenizer adds by itself, such as a beginning-of-sequence token, are kept.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of whole prompts, one list each, without padding or truncation."""
        if not prompts:
            return []
        encoded = self._tokenizer(
            list(prompts), split_special_tokens=True, padding=False, truncation=False,
            return_attention_mask=False, return_token_type_ids=False, verbose=False,
        )  # fmt: skip
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def trim(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """Cut a text after its first `max_tokens` tokens.

        Only the first ``64 * max_tokens`` characters are looked at, so that a text of any size costs the same.

        Returns:
            The text, cut if need be, and whether it was cut.
        """
        start = text[: 64 * max_tokens]
        if len(start) <= max_tokens:  # a token has at least a byte, so at most a few tokens a character
            pass
        encoded = self._tokenizer(
            start, split_special_tokens=True, add_special_tokens=False, truncation=False,
            return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        offsets = encoded["offset_mapping"]
        if len(offsets) > max_tokens:
            return start[: offsets[max_tokens - 1][1]], True
        return start, len(start) < len(text)
