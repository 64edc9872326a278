"""Token ids of prompts, from any of transformers' tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CHARACTERS_LOOKED_AT = 64  # per token kept, when a text is trimmed


class PromptTokenizer:
    """Tokenises prompts in which a text is only ever data: special tokens that stand in the text are split like other characters.

    Special tokens that the tokenizer adds by itself, such as a beginning-of-sequence token, are kept.

    Attributes:
        n_leading: Special tokens that the tokenizer puts in front of a prompt.
        has_offsets: Whether it can say which characters a token stands for; without, prompts are never cut.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.has_offsets = bool(tokenizer.is_fast)
        alone, inside = self._encode(["x"])["input_ids"][0], self._encode(["x"], add_special_tokens=False)["input_ids"][0]
        self.n_leading = next((i for i in range(len(alone)) if alone[i : i + len(inside)] == inside), 0)

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole prompts, one list each, without padding or truncation."""
        return self._encode(prompts)["input_ids"] if prompts else []

    def tokenize_inside(self, parts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of parts of prompts: no special tokens are added."""
        return self._encode(parts, add_special_tokens=False)["input_ids"] if parts else []

    def offsets(self, part: str) -> list[tuple[int, int]]:
        """Return the first and past-the-last character of each token of a part of a prompt."""
        return self._encode([part], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][0] if part else []

    def trim(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """Cut a text after its first `max_tokens` tokens.

        Only the first ``64 * max_tokens`` characters are looked at, so that a text of any size costs the same; a text
        with more characters than that counts as too long.

        Returns:
            The text, cut if need be, and whether it was cut.
        """
        start = text[: _CHARACTERS_LOOKED_AT * max_tokens]
        if len(start.encode("utf-8", "replace")) <= max_tokens:
            return text, False  # a token stands for a byte at least
        if self.has_offsets:
            offsets = self.offsets(start)
            return (start[: offsets[max_tokens - 1][1]], True) if len(offsets) > max_tokens else (start, len(start) < len(text))
        ids = self.tokenize_inside([start])[0]
        return (self._tokenizer.decode(ids[:max_tokens]), True) if len(ids) > max_tokens else (start, len(start) < len(text))

    def _encode(self, prompts: Sequence[str], **options: Any) -> Any:
        return self._tokenizer(
            list(prompts), split_special_tokens=True, padding=False, truncation=False,
            return_attention_mask=False, return_token_type_ids=False, verbose=False, **options,
        )  # fmt: skip
