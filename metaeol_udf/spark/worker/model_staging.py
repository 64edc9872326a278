"""Model files on their way to executors: what a model's name means on the driver and on a worker, and the copy kept on each host.

| `embedding.model` | reaches a worker as |
| --- | --- |
| a folder, `file:` | the same path, on its own disk or a shared one |
| `/Volumes/…`, `/dbfs/…`, `dbfs:` | a copy, made once a host |
| `hdfs:`, `s3a:`, any other of Hadoop's file systems | a file of the job, which Spark fetches with the cluster's own credentials |
| `spark-files:NAME` | the folder that `--archives` or `SparkContext.addFile` brought under that name |

Whatever the way, a worker compares every file with the driver's digests before it loads. No hub is asked.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import SparkSession

from metaeol_udf.encoder.checkpoint.location import is_local, model_folder
from metaeol_udf.encoder.checkpoint.manifest import ModelFile, verify_files, write_manifest
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from metaeol_udf.spark.worker.file_lock import Lease, private_folder

logger = logging.getLogger(__name__)

SPARK_FILES = "spark-files:"
COPY_WAIT_S = 7200.0  # another process copies the same model: minutes for most, over an hour for the largest on a slow disk
_MOUNTS = ("/Volumes/", "/dbfs/")  # object stores that look like folders: too slow and unsteady to map weights from


def driver_model_folder(model: str, revision: str | None, session: Callable[[], SparkSession]) -> Path:
    """Find the folder of a model on the driver; Spark fetches what no path of this machine leads to.

    Args:
        model: The model's name as the user wrote it.
        revision: The commit of a hub id.
        session: Gives the session that fetches; not called for models of this machine.

    Raises:
        ConfigError: There is no such model, or Spark cannot fetch it.
    """
    return model_folder(model, revision) if is_local(model) else _fetch(session(), model)


def worker_model_folder(resolved: ResolvedSpec, cache: str | None) -> Path:
    """Find the folder to load a model from on this machine, every file of it compared with the driver's; runs in a Python worker.

    Args:
        resolved: The spec, whose `place`, `files` and model hash count here.
        cache: Folder for copies on this machine's disk; None copies only from slow mounts, to the user's cache folder.

    Raises:
        ModelFilesError: A file is missing, truncated or other than the driver's.
        EnvironmentFault: The disk is full, or the cache folder is not this user's own.
    """
    source = worker_source(resolved.place, resolved.spec.revision)
    if cache is not None or str(source).startswith(_MOUNTS):
        root = Path(cache) if cache is not None else cache_folder("models")
        return cached_copy(source, str(resolved.spec.model_hash), resolved.files, root)
    verify_files(source, resolved.files)
    return source


def worker_source(place: str, revision: str | None) -> Path:
    """Find the folder that is the source of a model on this machine; runs in a Python worker.

    Raises:
        ModelFilesError: The folder is missing.
    """
    try:
        source = model_folder(place, revision) if is_local(place) else spark_file(place)
    except ConfigError:
        source = Path(place)
    if source.is_dir():
        return source
    raise ModelFilesError(
        f"model folder {source} is missing on {socket.gethostname()}, the driver has it: put it there, or name a place that all "
        "machines reach (a shared path, hdfs://, s3a://, spark-files:NAME)"
    )


def cached_copy(source: Path, model_hash: str, files: Sequence[ModelFile], cache: Path) -> Path:
    """A verified copy of a model folder on this machine's disk, made at most once whatever number of processes ask.

    A copy that was cut off or that the disk garbled is made anew; readers see a whole copy or none.

    Raises:
        ModelFilesError: The source is not what the driver saw. No copy is left.
        EnvironmentFault: The disk is full or takes no locks, the folder is not this user's own, or another process is not done in time.
    """
    copy = private_folder(cache) / model_hash[:32]
    if _is_whole(copy, files):
        return copy
    lease = Lease(copy.with_suffix(".lock"), "set runtime.model_cache to a folder on a local disk")
    with lease.waiting(COPY_WAIT_S, "a copy of the model"):
        if not _is_whole(copy, files):
            for left in (copy, *cache.glob(f"{copy.name}.*.part")):  # whoever made them is dead: the lease is ours
                shutil.rmtree(left, ignore_errors=True)
            _copy(source, copy, files)
    return copy


def _is_whole(copy: Path, files: Sequence[ModelFile]) -> bool:
    if not copy.is_dir():
        return False
    try:
        verify_files(copy, files)
    except ModelFilesError as error:
        logger.warning("the cached copy of the model is made anew: %s", error)
        return False
    return True


def _copy(source: Path, copy: Path, files: Sequence[ModelFile]) -> None:
    n_bytes, n_free = sum(file.n_bytes for file in files), shutil.disk_usage(copy.parent).free
    if n_bytes > n_free:
        raise EnvironmentFault(
            f"the model needs {n_bytes} bytes and {copy.parent} has {n_free}: free some, or set runtime.model_cache to a larger disk"
        )
    part = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", suffix=".part", dir=copy.parent))
    try:
        for file in files:
            copy_file(source / file.name, part / file.name)
        verify_files(part, files, shown_as=source)
        write_manifest(part, source="copy of a verified model folder", dtype="as the source's")
        _sync_folder(part)
        part.rename(copy)
        _sync_folder(copy.parent)
    except OSError as error:
        raise EnvironmentFault(f"cannot copy the model from {source} to {copy.parent}: {error.strerror}; see runtime.model_cache") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    logger.info("copied the model to %s, %d bytes", copy, n_bytes)


def copy_file(source: Path, target: Path) -> None:
    """Copy one file, and see that the copy reaches the disk."""
    if not source.is_file():
        raise ModelFilesError(f"model file {source} is missing; the driver has it")
    with open(source, "rb") as read, open(target, "xb") as written:
        shutil.copyfileobj(read, written, 1 << 22)
        written.flush()
        os.fsync(written.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def cache_folder(name: str) -> Path:
    """Name a folder of this user for what outlives a worker."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metaeol" / name


def _fetch(spark: SparkSession, model: str) -> Path:
    """Make a model a file of the job, which every executor fetches before its next task, and the driver now."""
    if not model.startswith(SPARK_FILES):
        try:
            spark.sparkContext.addFile(model, recursive=True)
        except Exception as error:
            raise ConfigError(f"embedding.model {model!r}: Spark cannot fetch it: {str(error).strip().splitlines()[0]}") from error
    folder = spark_file(model)
    if not folder.is_dir():
        raise ConfigError(
            f"embedding.model {model!r}: the job has no folder of that name; bring it with --archives model.tar.gz#{folder.name} "
            "or SparkContext.addFile(folder, recursive=True)"
        )
    return folder


def spark_file(model: str) -> Path:
    """Name the folder that Spark brought under a model's name; the folder may not be there."""
    name = model.removeprefix(SPARK_FILES).rstrip("/").rpartition("/")[2]
    fetched = Path(SparkFiles.get(name))
    # YARN unpacks archives in the container's working folder, which SparkFiles does not know.
    return fetched if fetched.is_dir() or not Path(name).is_dir() else Path(name).resolve()
