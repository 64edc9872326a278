"""Real tokens of a sample: tokenised and planned as the encoder does it, without a forward pass. Runs in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from pyspark.sql import DataFrame

from metaeol_udf.errors import without_message
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest

_SCHEMA = "texts long, tokens_computed long, tokens_whole long, trimmed long, prefix_tokens long"


@dataclass(frozen=True)
class TokenCount:
    """Holds the token counts of a sample.

    Attributes:
        texts: Texts counted.
        tokens_computed: Tokens that would go through the model for them, prefixes left out.
        tokens_whole: Tokens of their whole prompts: what one pass a prompt would compute.
        trimmed: Texts longer than `max_tokens`.
        prefix_tokens: Tokens that every load of the model computes once.
    """

    texts: int = 0
    tokens_computed: int = 0
    tokens_whole: int = 0
    trimmed: int = 0
    prefix_tokens: int = 0


def count_tokens(sample: DataFrame, request: EncoderRequest) -> TokenCount:
    """Count the tokens of a sample, one column of texts that are neither NULL nor blank, in one task and in chunks as the job cuts them."""

    def count(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        yield from _count_batches(request, batches)

    counted = sample.repartition(1).mapInPandas(count, _SCHEMA).collect()
    return TokenCount(**{name: sum(row[name] for row in counted) for name in TokenCount.__dataclass_fields__})


def _count_batches(request: EncoderRequest, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Count the tokens of batches by the encoder's own planner."""
    from metaeol_udf.encoder.checkpoint.architectures import RUN_WHOLE, text_model_type
    from metaeol_udf.encoder.checkpoint.hf_loading import load_tokenizer
    from metaeol_udf.encoder.preparation import prepare_texts
    from metaeol_udf.prompts import TemplateSet
    from metaeol_udf.prompts.tokenizer import PromptTokenizer
    from metaeol_udf.prompts.trie import PromptTrie
    from metaeol_udf.spark.worker.embed_column import chunk_limits, column_chunks
    from metaeol_udf.spark.worker.model_staging import worker_model_folder

    spec = request.resolved.spec
    folder, templates = worker_model_folder(request.resolved, request.model_cache), TemplateSet.from_spec(spec)
    shares = text_model_type(folder) not in RUN_WHOLE
    trie = PromptTrie(templates, PromptTokenizer(load_tokenizer(folder)), may_cut=shares)
    found = dict.fromkeys(TokenCount.__dataclass_fields__, 0)
    found["prefix_tokens"] = sum(len(group.prefix_ids) for group in trie.groups) if shares else 0
    for texts in column_chunks(request.resolved, (batch.iloc[:, 0] for batch in batches), chunk_limits(request.device)):
        known = [text for text in texts if text is not None]
        try:
            prepared = prepare_texts(known, trie, templates, spec.max_tokens, 1024, shares_starts=shares, splits_by=spec.splits_by)
        except Exception as error:  # noqa: BLE001 - raised again, without what it may quote
            raise without_message(error) from None
        found["texts"] += len(known)
        found["tokens_computed"] += int(prepared.tokens_computed.sum())
        found["tokens_whole"] += int(prepared.tokens_whole.sum())
        found["trimmed"] += int(prepared.trimmed.sum())
    yield pd.DataFrame([found])
