"""A spec as an MLflow model: weights, settings and this package in one artifact, which loads without anything else of ours.

MLflow imports this module by its name when it loads a model; no pickle is written. Needs mlflow-skinny to log, and to load.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import metaeol_udf
from metaeol_udf.config import GivenEncoderConfig, as_encoder_config
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, resolve_local
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.serving.embedder import SpecEmbedder, require_fingerprint
from metaeol_udf.spec import EmbeddingSpec, Passage

TEXT = "text"  # the input column
_SPEC, _MODEL = "spec.json", "model"  # in the artifact's data
_PACKAGE = "metaeol-udf"


class MetaEOLModel:
    """What `mlflow.pyfunc.load_model` wraps: texts in, vectors out.

    Attributes:
        embedder: The loaded spec.
    """

    def __init__(self, embedder: SpecEmbedder) -> None:
        self.embedder = embedder

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            model_input: A frame with the column `text`.
            params: `fingerprint`: what the spec's must be, such as that of the table that is searched; empty takes any.

        Returns:
            float32, shape ``(n_texts, dim)``, rows in their order.

        Raises:
            ConfigError: The fingerprint is another.
            InputError: There is no such column, or a text is missing or blank.
        """
        require_fingerprint(self.embedder.fingerprint, (params or {}).get("fingerprint") or None)
        if not isinstance(model_input, pd.DataFrame) or TEXT not in model_input.columns:
            raise InputError(f"the model takes a DataFrame with the column {TEXT!r}, found {type(model_input).__name__}")
        return self.embedder.embed(model_input[TEXT].tolist())


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> MetaEOLModel:
    """Load the model of an artifact: MLflow calls this by its name.

    Args:
        path: Folder of the artifact's data.
        model_config: `device` and `max_batch_tokens`, where they are not `auto`.

    Raises:
        ModelFilesError: Files are damaged, or not those that were logged.
    """
    settings = json.loads((Path(path) / _SPEC).read_text(encoding="utf-8"))
    layer = settings["layer"]
    settings |= {"layer": tuple(layer) if isinstance(layer, list) else layer, "passage": Passage.of(settings["passage"])}
    spec = EmbeddingSpec(**{**settings, "model": str(Path(path) / _MODEL)})
    # The spec names the digest of its model's files, so resolving it sees that these are they.
    return MetaEOLModel(SpecEmbedder(spec, **{key: value for key, value in (model_config or {}).items() if value is not None}))


def save_model(config: GivenEncoderConfig, folder: Path) -> str:
    """Write the spec of a configuration as an MLflow model into a folder that is not there yet; returns its fingerprint.

    Raises:
        ConfigError: A setting is wrong, mlflow is missing, or the folder is there.
        ModelFilesError: The model's files are not whole.
    """
    if folder.exists():
        raise ConfigError(f"--out {folder} is there already: name a folder that is not")
    with _parts(config) as (resolved, parts):
        mlflow = _mlflow()
        with _without_advice():
            mlflow.pyfunc.save_model(path=str(folder), **parts)
        return resolved.fingerprint


def log_model(config: GivenEncoderConfig, name: str, *, registered: str | None = None, experiment: str | None = None) -> dict[str, str]:
    """Log the spec of a configuration as a model of an MLflow run: the active one, or one of its own.

    Args:
        config: A configuration, its path, nested mappings, or a spec; `embedding` is read.
        name: Of the model in the run.
        registered: Name in the model registry; None registers nothing.
        experiment: Of the run; None takes MLflow's current one.

    Returns:
        `model_uri`, `run_id` and `fingerprint`.

    Raises:
        ConfigError: A setting is wrong, or mlflow is missing.
        ModelFilesError: The model's files are not whole.
    """
    with _parts(config) as (resolved, parts):
        mlflow = _mlflow()
        if experiment is not None:
            mlflow.set_experiment(experiment)
        with mlflow.start_run(nested=mlflow.active_run() is not None) as run:
            mlflow.set_tag("metaeol.fingerprint", resolved.fingerprint)
            with _without_advice():
                info = mlflow.pyfunc.log_model(name=name, registered_model_name=registered, **parts)
        return {"model_uri": info.model_uri, "run_id": run.info.run_id, "fingerprint": resolved.fingerprint}


@contextmanager
def _parts(config: GivenEncoderConfig) -> Iterator[tuple[ResolvedSpec, dict[str, Any]]]:
    """Put together what an artifact holds, in a folder that lasts as long as the block."""
    _mlflow()  # before the model's files are read in vain
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    resolved = resolve_local(as_encoder_config(config).embedding)
    output = Schema([TensorSpec(np.dtype("float32"), (-1, resolved.vector_length))])
    params = ParamSchema([ParamSpec("fingerprint", "string", "")])
    with tempfile.TemporaryDirectory(prefix="metaeol-model-") as folder:
        data = Path(folder) / "data"
        (data / _MODEL).mkdir(parents=True)
        source = model_folder(resolved.spec.model, resolved.spec.revision)
        for file in resolved.files:  # MLflow follows the links when it copies
            (data / _MODEL / file.name).symlink_to((source / file.name).resolve())
        settings = {**dataclasses.asdict(resolved.spec), "model": _MODEL, "revision": None}
        (data / _SPEC).write_text(json.dumps(settings, indent=2), encoding="utf-8")
        yield (
            resolved,
            {
                "loader_module": __name__,
                "data_path": str(data),
                "code_paths": [str(Path(metaeol_udf.__file__).parent)],
                "signature": ModelSignature(Schema([ColSpec("string", TEXT)]), output, params),
                "pip_requirements": requirements(),
                "metadata": {"metaeol_fingerprint": resolved.fingerprint},
                "model_config": {"device": "auto", "max_batch_tokens": "auto"},
            },
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep back MLflow's advice: about its own type hints, and to give an example input, for which it would load the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def requirements() -> list[str]:
    """List what the model needs, each at the version that is installed here; this package travels in the artifact itself.

    Raises:
        ConfigError: This package was not installed, so what it needs is not known.
    """
    try:
        needed = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ConfigError(f"{_PACKAGE} runs from a bare checkout: install it, so that what it needs can be pinned") from None
    from packaging.requirements import Requirement

    names = [each.name for each in map(Requirement, needed) if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [f"{name}=={metadata.version(name)}" for name in ("mlflow-skinny", *names)]


def _mlflow() -> Any:
    try:
        with _without_advice():
            import mlflow
            import mlflow.pyfunc
    except ImportError:
        raise ConfigError("`metaeol log-model` needs a package that is not installed: pip install 'metaeol-udf[mlflow]'") from None
    return mlflow
