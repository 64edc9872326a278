"""Other words for a meta-task, written by the loaded model itself."""

from __future__ import annotations

import re

import torch

from metaeol_udf.explain.language_model import LanguageModel

#: Lines in our own words that show what is wanted; base models and chat models both go on in the same way.
_EXAMPLES = "Topic: subject, theme, field\nFeeling: emotion, mood, sentiment\nPlace: location, site, spot\n"
_WORD = re.compile(r"[^\W\d_]{3,20}")
_MAX_NEW_TOKENS = 24


def propose_aspects(language_model: LanguageModel, meta_task: str) -> tuple[str, ...]:
    """Let the model name a meta-task, such as `urgency`, in other single words, greedily: the same model proposes the same words.

    Returns:
        Words of letters alone, in the model's order, each once and none of them in `meta_task`; empty where none is usable.
    """
    tokenizer, model = language_model.tokenizer, language_model.model
    prompt = f"{_EXAMPLES}{meta_task[0].upper()}{meta_task[1:]}:"
    ids = language_model.prompt_tokenizer.tokenize([prompt])[0]
    input_ids = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        written = model.generate(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=_MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )  # fmt: skip
    return single_words(tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True), meta_task)


def single_words(line: str, meta_task: str) -> tuple[str, ...]:
    """Return the usable words of what a model wrote: its first line, split at commas."""
    known = set(meta_task.casefold().split())
    parts = (part.strip(" .;'\"").lower() for part in line.strip().partition("\n")[0].split(","))
    return tuple(dict.fromkeys(part for part in parts if _WORD.fullmatch(part) and part.casefold() not in known))
