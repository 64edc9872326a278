"""Where a model's files lie on this machine: a folder, another way to write its path, or a snapshot in the local hub cache.

Nothing is downloaded here. What only Spark reaches is in `spark/worker/model_staging.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from metaeol_udf.errors import ConfigError, one_line
from metaeol_udf.files import is_file, is_file_name, is_folder
from metaeol_udf.formatting import shorten

_LOCAL_SCHEMES = ("file", "dbfs")
_ENCODERS = "sentence-transformers/"


def model_folder(model: str, revision: str | None = None) -> Path:
    """Find the folder that holds a model: a folder of that name, else a hub id's snapshot in the local hub cache.

    Never downloads: a job that runs on many machines needs files that were fetched and checked before.

    Raises:
        ConfigError: There is neither.
    """
    if not is_local(model):
        raise ConfigError(f"embedding.model {shorten(model, 300)!r} is a place that only a running Spark job reaches: name a folder here")
    folder = local_path(model)
    if is_folder(folder):
        return folder.resolve()
    if is_file(folder):
        raise ConfigError(f"embedding.model {model!r} is a file: `metaeol model prepare {model} DEST` makes a model folder of it")
    snapshot = _cached_snapshot(model, revision or "main")
    if snapshot is None:
        encoder = "; sentence-transformers publishes encoders, and a causal language model is needed" if model.startswith(_ENCODERS) else ""
        at = f" at revision {shorten(revision, 80)!r}" if revision else ""
        raise ConfigError(
            f"embedding.model {shorten(model, 300)!r}: no such folder, and the local hub cache has no such model{at}; "
            f"`metaeol model prepare SRC DEST` makes a folder from a GGUF file, a checkpoint or a hub id{encoder}"
        )
    return snapshot


def is_local(model: str) -> bool:
    """Tell whether a model's name is a path or a hub id, rather than a URI of a remote file system."""
    scheme, colon, _ = model.partition(":")
    return not colon or "/" in scheme or scheme in _LOCAL_SCHEMES


def local_path(model: str) -> Path:
    """Return the path that a model's name means: `file:` and `dbfs:` are other ways to write one."""
    scheme, _, rest = model.partition(":")
    if scheme not in _LOCAL_SCHEMES:
        return Path(model)
    path = "/" + rest.lstrip("/")
    # Databricks mounts its file system under /dbfs, and volumes under their own name.
    return Path(path if scheme == "file" or path.startswith("/Volumes/") else f"/dbfs{path}")


def _cached_snapshot(model: str, revision: str) -> Path | None:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    repository = cache / f"models--{model.replace('/', '--')}"
    reference = repository / "refs" / revision
    try:
        commit = reference.read_text(encoding="utf-8").strip() if is_file(reference) else revision
    except (OSError, ValueError) as error:
        raise ConfigError(f"embedding.model {model!r}: cannot read {reference}: {one_line(error)}") from None
    snapshot = repository / "snapshots" / commit
    return snapshot if is_file_name(commit) and is_folder(snapshot) else None
