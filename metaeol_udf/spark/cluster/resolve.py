"""Resolves a spec once a command, wherever its model lies: on the driver, where only Spark reaches it, or on the cluster alone."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from pyspark.sql import SparkSession

from metaeol_udf.encoder.checkpoint.location import is_local, model_folder
from metaeol_udf.encoder.checkpoint.manifest import ModelFile
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, check_model_hash, resolve_in, resolve_local, with_content
from metaeol_udf.errors import ConfigError, MetaEOLError, ModelFilesError
from metaeol_udf.spark.cluster.connect import connect_session
from metaeol_udf.spark.worker.model_staging import SPARK_FILES, driver_model_folder, spark_file
from metaeol_udf.spec import EmbeddingSpec

#: What functions that take a spec are given: one, resolved or not, a mapping of its settings, or the path of a file.
GivenSpec: TypeAlias = EmbeddingSpec | ResolvedSpec | Mapping[str, Any] | str | Path


def resolve(spec: GivenSpec, session: Callable[[], SparkSession] | None = None) -> ResolvedSpec:
    """Resolve a spec: the one function to call on a driver, or in a client of Spark Connect.

    Args:
        spec: What an embedding is; a resolved spec is returned as it is.
        session: Gives the session that fetches a model which no path of this machine leads to; by default the active one.

    Raises:
        ConfigError: Unknown model, template set or layer, or more dimensions asked for than there are.
        ModelFilesError: Files are missing, truncated, altered or of a kind that is not loaded.
    """
    if isinstance(spec, ResolvedSpec):
        return spec
    spec = EmbeddingSpec.of(spec)
    client = connect_session()
    if client is not None and not _is_here(spec):
        return _resolve_on_cluster(client, spec)
    if is_local(spec.model):
        return resolve_local(spec)
    return resolve_in(driver_model_folder(spec.model, spec.revision, session or _active_session), spec, spec.model)


def _active_session() -> SparkSession:
    session = SparkSession.getActiveSession()
    if session is None:
        raise ConfigError("embedding.model is a place that only a running Spark session reaches, and none is running: start one first")
    return session


def _is_here(spec: EmbeddingSpec) -> bool:
    """Tell whether a client has a copy of the model."""
    try:
        return is_local(spec.model) and model_folder(spec.model, spec.revision).is_dir()
    except ConfigError:
        return False


def _resolve_on_cluster(session: SparkSession, spec: EmbeddingSpec) -> ResolvedSpec:
    """Resolve a spec whose model only the cluster has, by a small job: a Python worker reads the model's files, and loads none.

    The client reads the template set and the post-processing.
    """
    if not is_local(spec.model) and not spec.model.startswith(SPARK_FILES):
        raise ConfigError(
            f"embedding.model {spec.model!r}: Spark Connect fetches nothing from there; name a folder that all machines of the cluster "
            f"reach, or bring it with spark.addArtifacts('model.tar.gz#NAME', archive=True) and name {SPARK_FILES}NAME"
        )
    named = dataclasses.replace(with_content(spec), model_hash=None)  # the worker may find other files: that is for the client to say

    def ask(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame({"found": [resolve_on_worker(named)] * len(batch)})

    found = json.loads(session.range(0, 1, 1, 1).mapInPandas(ask, "found string").collect()[0]["found"])
    if "error" in found:
        raise (ModelFilesError if found["is_files"] else ConfigError)(found["error"])
    check_model_hash(spec, found["model_hash"], " on the cluster")
    pinned = dataclasses.replace(named, model_hash=found.pop("model_hash"))
    files = tuple(ModelFile(*file) for file in found.pop("files"))
    return ResolvedSpec(pinned, files=files, layers=tuple(found.pop("layers")), **found)


def resolve_on_worker(spec: EmbeddingSpec) -> str:
    """Resolve a spec in a Python worker: to the fields of `ResolvedSpec` and `model_hash` as JSON, or to what is wrong with the model."""
    try:
        resolved = resolve_local(spec) if is_local(spec.model) else resolve_in(spark_file(spec.model), spec, spec.model)
    except MetaEOLError as error:
        seen_from = f"seen from the cluster's machine {socket.gethostname()}, as this one has no such model"
        return json.dumps({"error": f"{error} ({seen_from})", "is_files": isinstance(error, ModelFilesError)})
    found = {field.name: getattr(resolved, field.name) for field in dataclasses.fields(ResolvedSpec) if field.name != "spec"}
    files = [dataclasses.astuple(file) for file in resolved.files]
    return json.dumps(found | {"files": files, "model_hash": resolved.spec.model_hash})
