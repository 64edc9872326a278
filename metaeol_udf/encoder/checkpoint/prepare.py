"""Turn a GGUF file, a checkpoint, an adapter or a hub id into a folder of plain safetensors with a manifest of digests.

Runs once, on one machine, before any job. The folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaeol_udf.encoder.checkpoint.files import ADAPTER, check_weights, model_shape, read_json
from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, read_manifest, verify_folder, write_manifest
from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError, ModelFilesError, nearest_word, one_line
from metaeol_udf.files import is_file, is_folder
from metaeol_udf.spec import DTYPES


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Holds what a user allows and asks for."""

    dtype: str = "bfloat16"  # of the weights; auto keeps the source's
    revision: str | None = None  # of a hub id: a commit, so that the same model comes back next year
    trust_remote_code: bool = False  # run Python code that comes with the source
    allow_pickle: bool = False  # read weights that are not safetensors
    force: bool = False  # replace a model folder that is there already
    base: str | None = None  # base model of an adapter: a folder or a hub id; None: as the adapter says

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, found {self.dtype!r}{nearest_word(self.dtype, DTYPES)}")


@dataclass(frozen=True)
class _Source:
    """Describes where a model is read from.

    Attributes:
        label: For the manifest: a name without the path of this machine.
        place: What `from_pretrained` takes: a folder or a hub id.
        gguf_file: Name of the GGUF file in that folder; None for a checkpoint.
        adapter: Folder of an adapter that is merged into the model.
    """

    label: str
    place: str
    gguf_file: str | None = None
    adapter: Path | None = None


def prepare_model(source: str, destination: str | Path, options: PrepareOptions = PrepareOptions()) -> bool:
    """Make a model folder that jobs can load: safetensors, tokenizer and manifest.

    Args:
        source: A GGUF file, a folder with one, a checkpoint's folder, an adapter's folder (LoRA and its kin, as peft writes
            them), the name of an installed Python package that carries a GGUF file, or a hub id. Quantised weights of a checkpoint
            are written out in full.
        destination: The folder to make.
        options: What is asked for and allowed.

    Returns:
        True if the folder was made; False if one of the same source and dtype was there already and verifies.

    Raises:
        ConfigError: No such source, or the destination is something else.
        ModelFilesError: The source is damaged or of a kind that is not allowed, or a folder that is there does not verify.
        EnvironmentFault: The disk is full or not writable.
    """
    destination = Path(destination)
    found = _find_source(source, options)
    if not options.force and _is_there(destination, found, options):
        return False
    _check_replaceable(destination)
    try:
        with _partial_folder(destination) as partial, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about what is compared afterwards
            _convert(found, partial, options)
            write_manifest(partial, source=found.label, dtype=options.dtype)
            _publish(partial, destination)
    except OSError as error:
        raise EnvironmentFault(f"cannot write the model folder {destination}: {error.strerror or error}") from error
    return True


_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth")  # no hub id ends so


def _find_source(source: str, options: PrepareOptions) -> _Source:
    path = Path(source)
    if is_file(path):
        if path.suffix != ".gguf":
            raise ConfigError(f"model source {source} is a file, but no GGUF file: name the folder of a checkpoint")
        return _Source(path.name, str(path.parent), path.name)
    if is_file(path / ADAPTER):
        return _adapter_source(path, options)
    if options.base is not None:
        raise ConfigError(f"--base is for adapters, and {source} holds no {ADAPTER}")
    if is_folder(path):
        return _folder_source(path)
    package = source.replace("-", "_")
    if package.isidentifier():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found = _folder_source(Path(spec.origin).parent)
            return _Source(f"{source}: {found.label}", found.place, found.gguf_file)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or path.suffix in _FILES:
        raise ConfigError(f"model source {source} does not exist: {path.expanduser().absolute()} is no file and no folder")
    return _Source(f"{source}@{options.revision}" if options.revision else source, source)


def _adapter_source(adapter: Path, options: PrepareOptions) -> _Source:
    """Find an adapter's base model: what the user names, or the weights beside the adapter, or what its configuration names."""
    base = options.base
    if base is None:
        beside = (adapter / "config.json").is_file() and any(adapter.glob("model*.safetensors"))
        base = str(adapter) if beside else read_json(adapter / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"the adapter in {adapter} names no base model: name one with --base")
    found = _folder_source(Path(base)) if is_folder(Path(base)) else _find_source(base, replace(options, base=None))
    return replace(found, label=f"{adapter.resolve().name} on {found.label}", adapter=adapter)


def _folder_source(folder: Path) -> _Source:
    if (folder / "config.json").is_file():
        return _Source(folder.resolve().name, str(folder))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ConfigError(f"model source {folder} has no config.json and {len(files)} GGUF files; name a checkpoint's folder or one file")
    return _Source(files[0].name, str(folder), files[0].name)


def _is_there(destination: Path, source: _Source, options: PrepareOptions) -> bool:
    """Tell whether the very model that is asked for stands at the destination, whole."""
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return False
    if not destination.is_dir():
        raise ConfigError(f"model destination {destination} is a file")
    manifest = read_manifest(destination)
    if manifest is None:
        raise ModelFilesError(f"{destination} has no {MANIFEST}, so it cannot be verified; --force replaces a model folder")
    verify_folder(destination)
    if (manifest.get("source"), manifest.get("dtype")) != (source.label, options.dtype):
        raise ConfigError(
            f"{destination} holds {manifest.get('source')} as {manifest.get('dtype')}, not {source.label} as {options.dtype}; "
            "name another folder, or --force"
        )
    return True


def _check_replaceable(destination: Path) -> None:
    """Refuse to delete what is no model: --force replaces model folders only."""
    if not destination.exists():
        return
    looks_like_model = destination.is_dir() and ((destination / "config.json").exists() or (destination / MANIFEST).exists())
    if not looks_like_model and not (destination.is_dir() and not any(destination.iterdir())):
        raise ConfigError(f"{destination} is no model folder, so it is not replaced")


@contextmanager
def _partial_folder(destination: Path) -> Iterator[Path]:
    """Make an empty folder beside the destination, gone afterwards unless it was renamed."""
    owner = f".{destination.name}.{socket.gethostname()}-"
    destination.parent.mkdir(parents=True, exist_ok=True)
    for left_over in destination.parent.glob(f"{owner}*.partial"):
        process = left_over.name.removeprefix(owner).removesuffix(".partial")
        if process.isdecimal() and not Path("/proc", process).exists():  # a run that was killed on this machine
            shutil.rmtree(left_over, ignore_errors=True)
    partial = destination.parent / f"{owner}{os.getpid()}.partial"
    partial.mkdir(exist_ok=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, destination: Path) -> None:
    """Flush every file, then put the folder in its place by renaming."""
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors are written for their owner alone, but executors may run as someone else
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    replaced = partial.with_suffix(".replaced")
    if destination.exists():
        destination.rename(replaced)
    partial.rename(destination)
    shutil.rmtree(replaced, ignore_errors=True)
    parent = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _convert(source: _Source, folder: Path, options: PrepareOptions) -> None:
    """Load the model and save it as safetensors, then see that the result loads without what was allowed for the source."""
    # Read once, when tqdm is imported: the conversion's own bars go to stderr whatever transformers' settings say.
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    import transformers

    from metaeol_udf.encoder.checkpoint.hf_loading import check_loadable
    from metaeol_udf.encoder.checkpoint.plain_weights import MIN_COSINE, ask_to_unpack, compare, dequantize, merge_adapter, probe

    _silence(transformers)
    with _without_adapter(source.place, folder / "base") as place:
        found = replace(source, place=place)
        try:
            config: Any = None if found.gguf_file else transformers.AutoConfig.from_pretrained(place, **_common(found, options))
            was_quantised = config is not None and ask_to_unpack(config)
            model = _load_model(transformers, found, options, config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_place(found), **_common(found, options))
        except MetaEOLError:
            raise
        except Exception as error:  # readers of foreign files raise anything: name the source and keep the cause
            raise _unreadable(source, options, error) from error
        if was_quantised:
            dtype = (config.dtype or model.dtype) if options.dtype == "auto" else getattr(torch, options.dtype)
            dequantize(model, dtype, source.label)
        if source.adapter is not None:
            model = merge_adapter(model, source.adapter, options.allow_pickle)
    # The original format of a quantised checkpoint is a quantised one.
    model.save_pretrained(folder, max_shard_size="4GB", save_original_format=not was_quantised)
    tokenizer.save_pretrained(folder)
    model_shape(folder)
    check_weights(folder)
    check_loadable(folder)
    if was_quantised or source.adapter is not None:
        kind, expected = type(model), probe(model)
        del model
        compare(kind.from_pretrained(folder, dtype="auto"), expected, MIN_COSINE, f"what was made of {source.label}")


def _tokenizer_place(source: _Source) -> str:
    """Name the folder whose tokenizer is used: an adapter's own one, if it was trained with new tokens."""
    if source.adapter is not None and (source.adapter / "tokenizer_config.json").is_file():
        return str(source.adapter)
    return source.place


def _silence(transformers: Any) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _common(source: _Source, options: PrepareOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision is not None:
        settings["revision"] = options.revision
    if source.gguf_file is not None:
        settings["gguf_file"] = source.gguf_file
    return settings


@contextmanager
def _without_adapter(folder: str, scratch: Path) -> Iterator[str]:
    """Show a model folder without the adapter that stands in it: transformers would put the adapter into the model by itself."""
    if not is_file(Path(folder) / ADAPTER):
        yield folder
        return
    scratch.mkdir()
    try:
        for path in Path(folder).iterdir():
            if not path.name.startswith("adapter_"):
                (scratch / path.name).symlink_to(path.resolve())
        yield str(scratch)
    finally:
        shutil.rmtree(scratch)


def _load_model(transformers: Any, source: _Source, options: PrepareOptions, config: Any) -> Any:
    settings = _common(source, options)
    settings["dtype"] = options.dtype
    if source.gguf_file is not None:
        # Without this the weights stay quantised in memory, and a quantised model cannot be saved as safetensors.
        settings["quantization_config"] = transformers.GgufConfig(dequantize=True)
    else:
        settings["config"] = config
        if not options.allow_pickle:
            settings["use_safetensors"] = True
    missing: list[str] = []
    # A checkpoint without a language-model head is one of an embedding model: it is saved as it is.
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        model, report = kind.from_pretrained(source.place, output_loading_info=True, **settings)
        missing = sorted(report["missing_keys"])
        if not missing:
            return model
    raise ModelFilesError(f"model {source.label} lacks {len(missing)} weights, such as {missing[0]}")


def _unreadable(source: _Source, options: PrepareOptions, error: Exception) -> MetaEOLError:
    message = one_line(error)
    name = os.path.join(source.place, source.gguf_file) if source.gguf_file else source.place
    if isinstance(error, ImportError):
        extra, needed_by = ("demo", "GGUF files") if source.gguf_file else ("prepare", "most quantised checkpoints")
        return EnvironmentFault(f"cannot read {name}: {message[:300]}; the extra `metaeol-udf[{extra}]` brings what {needed_by} need")
    if "trust_remote_code" in message:
        return ModelFilesError(f"{name} comes with Python code of its own; if you trust it, use --trust-remote-code")
    if not options.allow_pickle and _has_only_pickles(source):
        return ModelFilesError(f"{name} holds pickled weights, and unpickling runs code; if you trust them, use --allow-pickle")
    if not os.path.isdir(source.place) and isinstance(error, (OSError, ValueError)):
        whose = "the adapter's base model" if source.adapter else "model source"
        way_out = "; name its folder with --base" if source.adapter else ""
        return ConfigError(
            f"{whose} {name!r} is no file, folder or installed package, and the hub gave no such model: {message[:300]}{way_out}"
        )
    return ModelFilesError(f"cannot read model {name}: {type(error).__name__}: {message[:300]}")


def _has_only_pickles(source: _Source) -> bool:
    folder = Path(source.place)
    return is_folder(folder) and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors"))
