"""From texts to planned batches: cut into chunks, cleaned, trimmed, deduplicated, tokenised, planned.

All of it is CPU work beside the model's. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.forward.batching import Cell, plan_batches
from metaeol_udf.encoder.vectors.output import PassageMean
from metaeol_udf.prompts import TemplateSet, clean_text
from metaeol_udf.prompts.passages import split_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import LEAST_SAVED, PrefixGroup, PromptTrie, find_common_starts
from metaeol_udf.spec import Passage

T = TypeVar("T")


@dataclass(frozen=True)
class PreparedTexts:
    """Holds a chunk of texts, ready for the model.

    Attributes:
        groups: Prefix groups: those of the template set, then those of texts with a common start.
        text_ids: For each group its texts' token ids, by unique text.
        batches: The plan over them.
        n_unique: Distinct cleaned texts and passages, which go through the model.
        unique: Which of the texts each text is, from `n_unique` on of `means`, shape ``(n_texts,)``.
        trimmed: Whether each text was cut, shape ``(n_texts,)``.
        tokens_computed: Tokens that go through the model for each text, shape ``(n_texts,)``; a repeated text or
            passage has 0, a common start counts for the first text that has it.
        tokens_whole: Tokens of each text's whole prompts, shape ``(n_texts,)``.
        means: Distinct texts whose hidden state is the mean of those of their passages.
    """

    groups: Sequence[PrefixGroup]
    text_ids: Sequence[Mapping[int, Sequence[int]]]
    batches: Sequence[Sequence[Cell]]
    n_unique: int
    unique: NDArray[np.int64]
    trimmed: NDArray[np.bool_]
    tokens_computed: NDArray[np.int64]
    tokens_whole: NDArray[np.int64]
    means: Sequence[PassageMean] = ()


def cut_chunks(texts: Iterable[T], max_texts: int, max_cost: int, cost: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut texts into chunks that are planned together; a chunk ends with the text that reaches a limit.

    Args:
        texts: Texts, or cells of a column.
        max_texts: Texts of a chunk, at most.
        max_cost: Cost of a chunk, in the unit of `cost`.
        cost: Gives what one text costs.
    """
    chunk: list[T] = []
    total = 0
    for text in texts:
        chunk.append(text)
        total += cost(text)
        if total >= max_cost or len(chunk) >= max_texts:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def prepare_texts(
    texts: Sequence[str], trie: PromptTrie, templates: TemplateSet, max_tokens: int, max_batch_tokens: int, shares_starts: bool,
    n_threads: int = 1, device_type: str = "cpu", splits_by: Passage | None = None,
) -> PreparedTexts:  # fmt: skip
    """Prepare texts for the model.

    Args:
        texts: Any strings.
        trie: Tokenises; not used by two threads at a time.
        templates: Says how to clean.
        max_tokens: Tokens kept of a text.
        max_batch_tokens: Tokens of one forward pass.
        shares_starts: Whether texts with a common start get a prefix of their own.
        n_threads: Threads that run batches; few texts are shared out evenly among them.
        device_type: `cpu` or `cuda`: what a common start must save to be worth a pass of its own.
        splits_by: How texts with more tokens are split, to be their passages' mean; None trims them.
    """
    trims = [clean_and_trim(text, templates.text_cleanup, trie.tokenizer, max_tokens) for text in texts]
    split = {} if splits_by is None else _split([texts[row] for row, trim in enumerate(trims) if trim[1]], splits_by, templates, trie)
    parts = [split[text] if is_cut and split else ((kept, 1),) for text, (kept, is_cut) in zip(texts, trims, strict=True)]
    trimmed = np.array([is_cut and not split for _, is_cut in trims], bool)
    places = {text: place for place, text in enumerate(dict.fromkeys(text for each in parts for text, _ in each))}
    ids = trie.tokenize(list(places))
    groups, text_ids, computed = _share_starts(
        trie.groups, ids, len(places), LEAST_SAVED.get(device_type, LEAST_SAVED["cpu"]) if shares_starts else None
    )
    whole = np.zeros(len(places), np.int64)
    for group, of_group in zip(groups, text_ids, strict=True):
        for row, tokens in of_group.items():
            computed[row] += group.tokens_computed(len(tokens))
            whole[row] += group.tokens_whole(len(tokens))
    lengths = [{row: len(tokens) for row, tokens in of_group.items()} for of_group in text_ids]
    n_suffixes = [len(group.suffix_ids) for group in groups]
    batches = plan_batches(lengths, n_suffixes, max_batch_tokens, n_threads)
    runs = [tuple(places[text] for text, _ in each) for each in parts]
    means: dict[PassageMean, int] = {}
    unique = np.zeros(len(texts), np.int64)
    for row, (run, each) in enumerate(zip(runs, parts, strict=True)):
        mean = PassageMean(run, tuple(n_tokens for _, n_tokens in each))
        unique[row] = run[0] if len(run) == 1 else len(places) + means.setdefault(mean, len(means))
    owners = np.array([row for row, run in enumerate(runs) for _ in run], np.int64)
    flat = np.array([place for run in runs for place in run], np.int64)
    of_texts, of_whole = np.zeros((2, len(texts)), np.int64)
    np.add.at(of_texts, owners[np.unique(flat, return_index=True)[1]], computed)
    np.add.at(of_whole, owners, whole[flat])
    return PreparedTexts(groups, text_ids, batches, len(places), unique, trimmed, of_texts, of_whole, list(means))


def _split(texts: Sequence[str], splits_by: Passage, templates: TemplateSet, trie: PromptTrie) -> dict[str, tuple[tuple[str, int], ...]]:
    """Split texts into passages: each passage as the model sees it, with its tokens."""
    found = {}
    for text in dict.fromkeys(texts):
        whole = clean_text(text, "none")  # so that no half character counts as one
        spans = split_text(whole, splits_by, templates.text_cleanup, trie.tokenizer)
        found[text] = tuple((clean_text(whole[span.start : span.end], templates.text_cleanup), span.n_tokens) for span in spans)
    return found


def clean_and_trim(text: str, cleanup: str, tokenizer: PromptTokenizer, max_tokens: int) -> tuple[str, bool]:
    """Clean a text and trim it. Clean again after trimming, so that a trimmed text also ends with a full stop (cleanup `paper`)."""
    kept, is_cut = tokenizer.trim(clean_text(text, cleanup), max_tokens)
    return clean_text(kept, cleanup) if is_cut else kept, is_cut


def _share_starts(
    groups: Sequence[PrefixGroup], ids: Sequence[Sequence[Sequence[int]]], n_texts: int, least_saved: int | None
) -> tuple[list[PrefixGroup], list[dict[int, Sequence[int]]], NDArray[np.int64]]:
    """Give texts with a common start a prefix group of their own, whose prefix holds that start.

    Returns:
        All groups, their texts' remaining tokens, and the tokens that the new prefixes cost, by text.
    """
    all_groups = list(groups)
    text_ids: list[dict[int, Sequence[int]]] = [dict(enumerate(of_group)) for of_group in ids]
    cost = np.zeros(n_texts, np.int64)
    starts = {
        id(of_group): [] if least_saved is None else find_common_starts(of_group, least_saved) for of_group in ids
    }  # groups that are cut alike share one list
    for index, group in enumerate(groups):
        for start in starts[id(ids[index])]:
            shared = tuple(ids[index][start.rows[0]][: start.n_tokens])
            all_groups.append(
                dataclasses.replace(
                    group,
                    prefix_ids=group.prefix_ids + shared,
                    n_inherited=len(group.prefix_ids),
                    prompt_lengths=tuple(n + start.n_tokens for n in group.prompt_lengths),
                )
            )
            text_ids.append({row: text_ids[index].pop(row)[start.n_tokens :] for row in start.rows})
            cost[min(start.rows)] += start.n_tokens
    return all_groups, text_ids, cost
