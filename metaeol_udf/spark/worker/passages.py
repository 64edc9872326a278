"""What a Python worker does to split a column of texts into passages. It needs the model's tokenizer alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pandas as pd

from metaeol_udf.errors import ConfigError, without_message
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, go_offline
from metaeol_udf.spark.worker.model_staging import worker_model_folder
from metaeol_udf.spark.worker.version_check import check_versions
from metaeol_udf.spec import Passage

#: Gives the passages of a text: where each begins and ends.
Splitter = Callable[[str], list[tuple[int, int]]]

_splitters: dict[str, Splitter] = {}


def passages_function(request: EncoderRequest, by: Passage) -> Callable[[Iterator[pd.Series]], Iterator[pd.DataFrame]]:
    """Make the function behind a Pandas UDF from texts to their passages: lists of `starts`, of `ends` and of `texts`."""

    def split(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        return split_column(request, by, batches)

    return split


def split_column(request: EncoderRequest, by: Passage, batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
    """Split the cells of a column; a cell that is NULL or blank has no passage.

    Raises:
        ConfigError: The model's tokenizer does not say where in a text its tokens end.
        EnvironmentFault: This worker has other versions than the driver.
        ModelFilesError: The model's files are missing or not the driver's on this machine.
    """
    for batch in batches:
        texts = [cell if isinstance(cell, str) else "" for cell in batch]
        try:
            split = _splitter(request, by) if texts else None
            spans = [] if split is None else [split(text) for text in texts]
        except Exception as error:  # noqa: BLE001 - raised again, without what it may quote
            raise without_message(error) from None
        parts = [[text[start:end] for start, end in found] for text, found in zip(texts, spans, strict=True)]
        columns = {"starts": [[start for start, _ in found] for found in spans], "ends": [[end for _, end in found] for found in spans]}
        yield pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in (columns | {"texts": parts}).items()})


def _splitter(request: EncoderRequest, by: Passage) -> Splitter:
    """Find this process's splitter: the tokenizer is loaded once."""
    key = repr((request.key, by))
    if key not in _splitters:
        _splitters.clear()
        _splitters[key] = _load_splitter(request, by)
    return _splitters[key]


def _load_splitter(request: EncoderRequest, by: Passage) -> Splitter:
    go_offline()
    check_versions(request.versions)
    from metaeol_udf.encoder.checkpoint.hf_loading import load_tokenizer
    from metaeol_udf.prompts import TemplateSet
    from metaeol_udf.prompts.passages import spans_of
    from metaeol_udf.prompts.tokenizer import PromptTokenizer

    spec = request.resolved.spec
    tokenizer = PromptTokenizer(load_tokenizer(worker_model_folder(request.resolved, request.model_cache)))
    if not tokenizer.has_offsets:
        raise ConfigError(
            "embedding.long_texts is 'passages', but the model's tokenizer does not say where in a text its tokens end: set "
            "embedding.long_texts=trim"
        )
    cleanup = TemplateSet.from_spec(spec).text_cleanup
    return functools.partial(spans_of, by=by, cleanup=cleanup, max_tokens=spec.max_tokens, tokenizer=tokenizer)
