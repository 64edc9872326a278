"""Spark Connect: what a client does otherwise, whose process has no JVM and perhaps no copy of the model."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Mapping

import pandas as pd
from pyspark.sql import SparkSession, is_remote

from metaeol_udf.encoder.checkpoint.files import is_local, resolve_spec
from metaeol_udf.encoder.checkpoint.manifest import ModelFile, deciding_files
from metaeol_udf.encoder.vectors.postprocess import read_content
from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError, ModelFilesError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spark.worker.model_staging import SPARK_FILES, driver_folder
from metaeol_udf.spec import EmbeddingSpec


def connect_session() -> SparkSession | None:
    """The active session if it is one of Spark Connect; None with a JVM in this process, and without a session."""
    return SparkSession.getActiveSession() if is_remote() else None


def require_jvm(session: SparkSession) -> None:
    """See that a session's driver is this process: what works on Delta tables needs their transactions and file systems.

    Raises:
        EnvironmentFault: The session is one of Spark Connect.
    """
    if type(session).__module__.startswith("pyspark.sql.connect"):
        raise _no_jvm("the session is one of Spark Connect")


def require_no_remote(conf: Mapping[str, str]) -> None:
    """See that a session which is about to start would have its driver in this process.

    Raises:
        EnvironmentFault: A setting or an environment variable asks for Spark Connect.
    """
    if conf.get("spark.remote") or conf.get("spark.api.mode") == "connect":
        raise _no_jvm("spark.conf asks for Spark Connect")
    if os.environ.get("SPARK_REMOTE"):
        raise _no_jvm("the environment variable SPARK_REMOTE asks for Spark Connect")


def _no_jvm(found: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{found}, through which no command that works on Delta tables can run: run it where the driver is (spark-submit "
        "jobs/embed_table.py CONF, or a notebook of a Databricks cluster with dedicated access); over Spark Connect use with_embeddings, "
        "embed_udf, MetaEOLEmbedder or register_sql"
    )


def session_with_model(spec: EmbeddingSpec) -> SparkSession | None:
    """The Spark Connect session whose workers have a model that no path of this machine leads to; None in all other cases."""
    session = connect_session()
    return None if session is None or _is_here(spec) else session


def _is_here(spec: EmbeddingSpec) -> bool:
    if not is_local(spec.model):
        return False
    try:
        return driver_folder(spec.model, spec.revision).is_dir()
    except ConfigError:
        return False


def resolve_on_worker(session: SparkSession, spec: EmbeddingSpec) -> tuple[EmbeddingSpec, tuple[ModelFile, ...]]:
    """Resolve a spec whose model only the cluster has: a Python worker reads its files, as the driver does elsewhere.

    Template set and post-processing are read here. One small job runs; it loads no model.

    Returns:
        The resolved spec, with the model's name as it is written, and the files that workers compare theirs with.

    Raises:
        ConfigError: The spec names something that does not exist, or a place that Spark Connect cannot fetch from.
        ModelFilesError: The model's files are not whole, or not those that the spec was resolved with.
    """
    if not is_local(spec.model) and not spec.model.startswith(SPARK_FILES):
        raise ConfigError(
            f"embedding.model {spec.model!r}: Spark Connect fetches nothing from there; name a folder that all machines of the cluster "
            f"reach, or bring it with spark.addArtifacts('model.tar.gz#NAME', archive=True) and name {SPARK_FILES}NAME"
        )
    content = read_content(spec) if spec.postprocess is not None and spec.postprocess_content is None else spec.postprocess_content
    named = dataclasses.replace(spec, templates_json=TemplateSet.from_spec(spec).to_json(), postprocess_content=content)

    def look(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame({"found": [seen_on_worker(named)] * len(batch)})

    found = json.loads(session.range(0, 1, 1, 1).mapInPandas(look, "found string").collect()[0]["found"])
    if "error" in found:
        raise (ModelFilesError if found["is_files"] else ConfigError)(found["error"])
    if spec.model_hash not in (None, found["model_hash"]):
        raise ModelFilesError(f"embedding.model {spec.model!r} holds other files on the cluster than those that the spec was resolved with")
    files = tuple(ModelFile(*file) for file in found["files"])
    return dataclasses.replace(named, model_hash=found["model_hash"]), files


def seen_on_worker(spec: EmbeddingSpec) -> str:
    """What a Python worker sees of a model, as JSON: digest and files, or what is wrong with them."""
    try:
        folder = driver_folder(spec.model, spec.revision)
        resolved, _ = resolve_spec(dataclasses.replace(spec, model=str(folder)))
        files = [dataclasses.astuple(file) for file in deciding_files(folder)]
    except MetaEOLError as error:
        seen_from = f"seen from the cluster's machine {socket.gethostname()}, as this one has no such model"
        return json.dumps({"error": f"{error} ({seen_from})", "is_files": isinstance(error, ModelFilesError)})
    return json.dumps({"model_hash": resolved.model_hash, "files": files})
