"""Model files on their way to executors, and the one verified copy a host keeps."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.encoder.checkpoint.location import is_local, local_path
from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, content_hash, deciding_files, verify_folder
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from metaeol_udf.spark import with_embeddings
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker import model_staging
from metaeol_udf.spark.worker.file_lock import Lease
from metaeol_udf.spark.worker.model_staging import cached_copy, worker_model_folder
from metaeol_udf.spec import EmbeddingSpec
from tests.specs import without_files

COPY = """
import sys, time
from pathlib import Path
from metaeol_udf.encoder.checkpoint.manifest import content_hash, deciding_files
from metaeol_udf.spark.worker import model_staging
source, cache, log = map(Path, sys.argv[1:])
copy_file = model_staging.copy_file
def slow(*paths):
    with open(log, "a") as file:
        file.write("copied\\n")
    time.sleep(0.2)  # both processes are here at the same time, or one of them waits
    copy_file(*paths)
model_staging.copy_file = slow
print(model_staging.cached_copy(source, content_hash(source), deciding_files(source), cache))
"""


@pytest.fixture
def source(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "source"))


def _copy(source: Path, cache: Path, driver: Path | None = None) -> Path:
    """As a worker does, with the digests of the driver's folder."""
    return cached_copy(source, content_hash(driver or source), deciding_files(driver or source), cache)


def test_two_processes_at_once_make_one_copy(source: Path, tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    command = [sys.executable, "-c", COPY, str(source), str(cache), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shown = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(shown) == 1
    assert log.read_text().count("copied") == len(deciding_files(source))
    copy = Path(shown.pop().strip())
    assert content_hash(copy) == content_hash(source)
    verify_folder(copy)
    assert (copy / MANIFEST).is_file()
    assert cache.stat().st_mode & 0o777 == copy.stat().st_mode & 0o777 == 0o700


def test_a_copy_that_was_cut_off_or_garbled_is_made_anew(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    copy = _copy(source, cache)
    part = cache / f"{copy.name}.dead.part"
    part.mkdir()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    lease = Lease(copy.with_suffix(".lock"))  # the dead process's: its file is there, its lock is not
    lease.path.write_text("999999")
    assert _copy(source, cache) == copy
    assert content_hash(copy) == content_hash(source)
    assert not part.exists()


def test_a_whole_copy_needs_no_source(source: Path, tmp_path: Path) -> None:
    files, digest = deciding_files(source), content_hash(source)
    copy = cached_copy(source, digest, files, tmp_path / "cache")
    shutil.rmtree(source)
    assert cached_copy(source, digest, files, tmp_path / "cache") == copy


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing", "extra"])
def test_a_source_that_is_not_the_drivers_is_named_with_its_digests_and_leaves_no_copy(
    damage: str, source: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    weights = source / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    elif damage == "extra":
        (source / "tokenizer.model").write_bytes(b"x")
    else:
        weights.write_bytes(whole[:-100] if damage == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelFilesError) as refused:
        worker_model_folder(dataclasses.replace(without_files(_spec(source)), files=deciding_files(tiny_model_dir)), None)
    assert str(source) in str(refused.value)
    if damage == "extra":  # nothing but the driver's files is copied
        return
    with pytest.raises(ModelFilesError) as refused:
        _copy(source, tmp_path / "cache", tiny_model_dir)
    assert str(weights) in str(refused.value)
    if damage != "missing":
        digest = next(file.sha256 for file in deciding_files(tiny_model_dir) if file.name == weights.name)
        assert digest in str(refused.value)
        assert next(file.sha256 for file in deciding_files(source) if file.name == weights.name) in str(refused.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert refused.value.exit_code == 5


def test_a_full_disk_is_said_before_and_while_copying(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(model_staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(EnvironmentFault, match=r"has 1000: free some, or set runtime\.model_cache"):
            _copy(source, tmp_path / "cache")

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(model_staging, "copy_file", full)
        with pytest.raises(EnvironmentFault, match="No space left on device"):
            _copy(source, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert content_hash(_copy(source, tmp_path / "cache")) == content_hash(source)


def test_a_cache_folder_of_everybodys_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o777)
    with pytest.raises(EnvironmentFault, match="closed to others"):
        _copy(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("/models/m", "/models/m"),
        ("models/m", "models/m"),
        ("file:///models/m", "/models/m"),
        ("file:/models/m", "/models/m"),
        ("dbfs:/models/m", "/dbfs/models/m"),
        ("dbfs:/Volumes/c/s/v/m", "/Volumes/c/s/v/m"),
        ("maker/model", "maker/model"),
    ],
)
def test_names_of_local_folders(model: str, path: str) -> None:
    assert is_local(model)
    assert local_path(model) == Path(path)


@pytest.mark.parametrize("model", ["hdfs:///models/m", "s3a://bucket/m", "abfss://c@a.net/m", "gs://bucket/m", "spark-files:m"])
def test_uris_are_no_local_folders(model: str) -> None:
    assert not is_local(model)
    with pytest.raises(ConfigError, match="only a running Spark job reaches"):
        resolve_local(EmbeddingSpec(model=model))


def _spec(model: Path | str) -> EmbeddingSpec:
    return EmbeddingSpec(model=str(model), dtype="float32", max_tokens=64)


@pytest.fixture
def texts() -> list[tuple[int, str]]:
    return [(i, f"A text with the number {i}") for i in range(6)]


def _vectors(spark: SparkSession, texts: list[tuple[int, str]], spec: EmbeddingSpec) -> dict[int, list[float]]:
    rows = with_embeddings(spark.createDataFrame(texts, "id int, text string").repartition(2), spec, device="cpu").collect()
    return {row["id"]: [round(value, 4) for value in row["embedding"]] for row in rows}


def test_a_model_on_a_file_system_of_hadoops_gives_the_vectors_and_fingerprint_of_the_folder(
    spark: SparkSession, texts: list[tuple[int, str]], source: Path
) -> None:
    # viewfs: is Hadoop's own remote scheme whose mount table may lead to a local folder.
    conf = spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[attr-defined]
    conf.set("fs.viewfs.mounttable.store.link./models", f"file://{source.parent}")
    there = _spec("viewfs://store/models/source")
    assert _vectors(spark, texts, there) == _vectors(spark, texts, _spec(source))
    request = make_request(there)
    assert request.resolved.place == request.resolved.spec.model == "viewfs://store/models/source"
    assert request.resolved.fingerprint == make_request(_spec(source)).resolved.fingerprint


def test_a_model_among_the_jobs_files_is_found_by_its_name(
    spark: SparkSession, texts: list[tuple[int, str]], source: Path, tmp_path: Path
) -> None:
    shipped = source.rename(tmp_path / "shipped")
    spark.sparkContext.addFile(str(shipped), recursive=True)
    assert _vectors(spark, texts, _spec("spark-files:shipped")) == _vectors(spark, texts, _spec(shipped))


def test_a_place_that_spark_cannot_reach_is_a_configuration_error(spark: SparkSession) -> None:
    for model, words in [("nowhere://bucket/m", "Spark cannot fetch it"), ("spark-files:absent", "the job has no folder of that name")]:
        with pytest.raises(ConfigError, match=words):
            make_request(_spec(model))


def test_a_worker_whose_folder_is_missing_or_other_says_so(source: Path, tmp_path: Path) -> None:
    resolved = resolve(_spec(source))
    moved = source.rename(tmp_path / "moved")
    with pytest.raises(ModelFilesError, match=rf"model folder {source} is missing on {os.uname().nodename}"):
        worker_model_folder(resolved, None)
    assert worker_model_folder(dataclasses.replace(resolved, place=str(moved)), None) == moved


OFFLINE = """
import os, socket, sys
connect = socket.socket.connect
def watched(self, address):
    if self.family != socket.AF_UNIX:
        raise SystemExit(f"connected to {address}")
    return connect(self, address)
socket.socket.connect = watched
socket.getaddrinfo = lambda *args, **kwargs: sys.exit(f"looked up {args}")
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker.embed_column import embed_column
from metaeol_udf.spec import EmbeddingSpec
import pandas as pd
request = make_request(EmbeddingSpec(model=sys.argv[1], dtype="float32"), "cpu")
(frame,) = embed_column(request, iter([pd.Series(["a text"])]))
print(len(frame["vector"][0]), os.environ["HF_HUB_OFFLINE"])
"""


def test_a_worker_asks_no_hub(source: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run([sys.executable, "-c", OFFLINE, str(source)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.split() == ["32", "1"], done.stderr[-2000:]
