"""What a person may have meant with a setting that does not exist: by sense first, then by letters."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from metaeol_udf.errors import did_you_mean

#: Names that other tools use, and the setting that does the same here.
_ALIASES = {
    "batch_size": "runtime.max_batch_tokens",
    "batch_tokens": "runtime.max_batch_tokens",
    "checkpoint_location": "stream.checkpoint",
    "condition": "source.where",
    "destination": "target.table",
    "dim": "embedding.truncate_dim",
    "dimension": "embedding.truncate_dim",
    "dimensions": "embedding.truncate_dim",
    "filter": "source.where",
    "gpus": "runtime.task_gpus",
    "id": "source.key",
    "id_column": "source.key",
    "input": "source.table",
    "key_column": "source.key",
    "keys": "source.key",
    "layers": "embedding.layer",
    "max_length": "embedding.max_tokens",
    "max_seq_length": "embedding.max_tokens",
    "model_name": "embedding.model",
    "model_path": "embedding.model",
    "normalize_embeddings": "embedding.normalize",
    "output": "target.table",
    "output_column": "embedding.column",
    "precision": "embedding.dtype",
    "primary_key": "source.key",
    "prompt": "embedding.templates",
    "prompts": "embedding.templates",
    "quantize": "embedding.quantization",
    "text_column": "source.text",
    "vector_column": "embedding.column",
}


def suggest_setting(section: str, key: str, known: Mapping[str, Sequence[str]]) -> str:
    """Return the end of a message about `section.key`, which does not exist.

    Args:
        section: The section that the key stands in; empty for a key on the top level of the file.
        key: The unknown key.
        known: Keys of each section.
    """
    own = list(known.get(section, ()))
    near = difflib.get_close_matches(key, own, n=1, cutoff=0.75)
    if near:
        return f"did you mean {near[0]!r}?"
    homes = [name for name, keys in known.items() if key in keys and name != section]
    if homes:
        return f"`{key}` belongs below `{'` or `'.join(f'{name}:' for name in homes)}`"
    alias = _ALIASES.get(key.lower())
    if alias is not None:
        return f"did you mean {alias.removeprefix(f'{section}.')!r}?"
    return did_you_mean(key, own or known)
