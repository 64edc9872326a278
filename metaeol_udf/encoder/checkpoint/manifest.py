"""SHA-256 digests of a model folder's files, and the manifest that remembers what they should be.

Imports neither torch nor transformers, so that a Spark driver without them can use it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeol_udf.errors import ModelFilesError
from metaeol_udf.files import is_file, is_file_name, parse_json
from metaeol_udf.formatting import shorten

MANIFEST = "metaeol-manifest.json"
FORMAT_VERSION = 1

#: What decides a vector: the model's shape, its tokenizer, its weights and code of its own.
_TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "vocab.json", "vocab.txt")
_BLOCK_BYTES = 1 << 20
_WAY_OUT = " `metaeol model prepare SRC DEST --force` makes the folder anew"


@dataclass(frozen=True)
class ModelFile:
    """Describes what a file of a model must be: its name, SHA-256 in hexadecimal, and size."""

    name: str
    sha256: str
    n_bytes: int


def decides_vectors(name: str) -> bool:
    """Tell whether a file of this name in a model folder can change a vector; chat templates and read-me files cannot."""
    by_name = name == "config.json" or name in _TOKENIZER_FILES or name.startswith("tokenizer")
    return by_name or name.endswith((".safetensors", ".safetensors.index.json", ".tiktoken", ".py"))


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, 64 hexadecimal digits, once per process while size and time stamp stay.

    Raises:
        ModelFilesError: The file is missing or cannot be read.
    """
    try:
        status = path.stat()
        return _sha256(str(path), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelFilesError(f"cannot read model file {path}: {error.strerror}") from None


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def content_hash(folder: Path) -> str:
    """Return the digest of the files that decide a vector, 64 hexadecimal digits: the same with a manifest and without one."""
    entries = [[file.name, file.sha256] for file in deciding_files(folder)]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def deciding_files(folder: Path) -> tuple[ModelFile, ...]:
    """List the files of a model folder that decide a vector, as they are, by name."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and decides_vectors(path.name))
    return tuple(ModelFile(path.name, file_sha256(path), path.stat().st_size) for path in paths)


def verify_files(folder: Path, files: Sequence[ModelFile], shown_as: Path | None = None) -> None:
    """Compare a model folder with the files of another machine's; messages name it as `shown_as`, where it is a copy.

    Raises:
        ModelFilesError: A file is missing or other than it must be, or one more stands beside them.
    """
    shown = shown_as or folder
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise ModelFilesError(f"model file {shown / file.name} is missing; the driver has it")
        n_bytes = path.stat().st_size
        found = file_sha256(path)
        if (found, n_bytes) != (file.sha256, file.n_bytes):
            raise ModelFilesError(
                f"model file {shown / file.name} is not the driver's: {n_bytes} bytes with SHA-256 {found}, "
                f"the driver has {file.n_bytes} with {file.sha256}. Copy the model folder anew"
            )
    names = {file.name for file in files}
    for path in folder.iterdir():
        if path.is_file() and decides_vectors(path.name) and path.name not in names:
            raise ModelFilesError(f"model file {shown / path.name} is not in the driver's folder: remove it")


def write_manifest(folder: str | Path, *, source: str, dtype: str) -> None:
    """Write down every file of a model folder with its digest and size, and see that the manifest reaches the disk.

    Args:
        folder: A finished model folder.
        source: Where the model came from, for people: a file's name or a hub id, never a machine's path.
        dtype: Of the weights.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    files = {path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for path in paths}
    manifest = {"format_version": FORMAT_VERSION, "source": source, "dtype": dtype, "files": files}
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: str | Path) -> Mapping[str, Any] | None:
    """Read the manifest of a model folder; return None where there is none.

    Raises:
        ModelFilesError: The manifest is there but cannot be understood.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        entries = [(entry["sha256"], entry["bytes"]) for entry in manifest["files"].values()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelFilesError(f"model manifest {path} is damaged.{_WAY_OUT}") from None
    for name, (sha256, n_bytes) in zip(manifest["files"], entries, strict=True):
        if not (is_file_name(name) and isinstance(sha256, str) and isinstance(n_bytes, int)):
            raise ModelFilesError(
                f"model manifest {path} is damaged: it lists {name[:80]!r}, which is no file of a model folder.{_WAY_OUT}"
            )
    if version != FORMAT_VERSION or not entries:
        found = f"format version {reprlib.repr(version)} and {len(entries)} files"
        raise ModelFilesError(f"model manifest {path} has {found}; this release reads {FORMAT_VERSION}")
    checked: Mapping[str, Any] = manifest
    return checked


def verify_folder(folder: str | Path) -> None:
    """Check a model folder against its manifest; a folder without one passes.

    Called on the driver before any Spark work, and once per model load where the model is loaded.

    Raises:
        ModelFilesError: A file is missing, truncated or altered, or one that the manifest does not list stands beside them.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        return
    for name, entry in manifest["files"].items():
        _verify_file(folder / name, entry["sha256"], entry["bytes"])
    for path in folder.iterdir():
        if path.is_file() and decides_vectors(path.name) and path.name not in manifest["files"]:
            raise ModelFilesError(
                f"model file {path} is not in {MANIFEST}: remove it, or let `metaeol model prepare SRC DEST --force` make the folder anew"
            )


def _verify_file(path: Path, sha256: str, n_bytes: int) -> None:
    if not is_file(path):
        raise ModelFilesError(f"model file {path} is missing; {MANIFEST} lists it.{_WAY_OUT}")
    found_bytes, found = path.stat().st_size, file_sha256(path)
    if found != sha256:
        how = f"is truncated, {found_bytes} bytes of {reprlib.repr(n_bytes)}" if found_bytes < n_bytes else "was altered"
        raise ModelFilesError(f"model file {path} {how}: SHA-256 is {found}, {MANIFEST} says {shorten(sha256, 64)}.{_WAY_OUT}")
