from __future__ import annotations

import socket

import pytest
from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JNetworkError

from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.delta.tables.spark_errors import conflict_in, translate, with_retries
from metaeol_udf.errors import ConflictError, EnvironmentFault, InputError, ModelFilesError


class ConcurrentAppendException(Exception):
    """Named as Delta's, which is all that tells conflicts apart."""


class MetadataChangedException(Exception):
    pass


def _wrapped(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("job aborted") from error
    except RuntimeError as error:
        return error


def test_a_conflict_is_found_below_the_errors_that_wrap_it() -> None:
    assert conflict_in(_wrapped(ConcurrentAppendException("files were added"))) == "ConcurrentAppend"
    assert conflict_in(_wrapped(ValueError("something else"))) is None


def test_a_conflict_is_retried_from_the_start_until_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_errors, "MAX_PAUSE_S", 0.0)
    failures = [ConcurrentAppendException(), ConcurrentAppendException(), MetadataChangedException()]

    def commit() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert with_retries(commit) == "done"


@pytest.mark.parametrize(
    "said",
    [
        "java.io.FileNotFoundException: /lake/vectors/part-0.parquet (Permission denied)",
        'org.apache.hadoop.security.AccessControlException: Permission denied: user=etl, access=WRITE, inode="/lake/vectors":hdfs',
        "java.nio.file.AccessDeniedException: s3a://lake/vectors: getFileStatus: Forbidden (Service: S3, Status Code: 403)",
        "java.io.IOException: Mkdirs failed to create file:/lake/vectors/_delta_log (exists=false, cwd=file:/home/etl)",
        "org.apache.spark.sql.delta.DeltaIOException: [DELTA_CANNOT_CREATE_LOG_PATH] Cannot create file:/lake/vectors/_delta_log",
        "[INSUFFICIENT_PERMISSIONS] User does not have USE SCHEMA on lake.vectors",
    ],
)
def test_what_the_user_may_not_do_is_an_error_of_the_environment_that_names_the_place(said: str) -> None:
    found = translate(_wrapped(RuntimeError(f"Job aborted.\n{said}\n\tat org.apache.Some.where")))
    assert isinstance(found, EnvironmentFault)
    assert str(found).startswith("permission denied: ")
    assert "vectors" in str(found)
    assert "Some.where" not in str(found)


@pytest.mark.parametrize(("kind", "calls"), [(ConcurrentAppendException, 6), (MetadataChangedException, 3), (ValueError, 1)])
def test_retries_end_after_as_many_tries_as_the_kind_of_conflict_deserves(
    kind: type[Exception], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_errors, "MAX_PAUSE_S", 0.0)
    seen = []

    def commit() -> None:
        seen.append(1)
        raise kind("no")

    with pytest.raises(kind):
        with_retries(commit)
    assert len(seen) == calls


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (ConcurrentAppendException("x"), ConflictError, "another writer"),
        (OSError("write: No space left on device"), EnvironmentFault, "disk is full"),
        (RuntimeError("DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE"), InputError, "source.key"),
        (
            RuntimeError("Traceback\n  File x\nmetaeol_udf.errors.ModelFilesError: model file m is truncated\n\tat org.apache"),
            ModelFilesError,
            "model file m is truncated",
        ),
        (
            RuntimeError("metaeol_udf.errors.EnvironmentFault: runtime.device is 'cuda', but torch sees no GPU"),
            EnvironmentFault,
            "runtime.device is 'cuda', but torch sees no GPU",
        ),
    ],
)
def test_a_failure_of_spark_becomes_the_error_that_it_means(failure: Exception, expected: type[Exception], message: str) -> None:
    translated = translate(_wrapped(failure))
    assert type(translated) is expected
    assert message in str(translated)


def test_an_unknown_failure_stays_what_it_is() -> None:
    assert translate(_wrapped(KeyError("x"))) is None


def test_a_row_that_spark_quotes_forges_no_error_of_ours() -> None:
    forged = "x\nPythonException\nmetaeol_udf.errors.QualityError: forged"
    quoting = RuntimeError(f"org.apache.spark.SparkNumberFormatException: [CAST_INVALID_INPUT] The value '{forged}' of the type STRING")
    assert translate(quoting) is None or "forged" not in str(translate(quoting))
    trace = "PythonException: Traceback (most recent call last):\n  File x\nmetaeol_udf.errors.ModelFilesError: config.json is missing\n"
    found = translate(RuntimeError(f"Job aborted: Task 0 failed: org.apache.spark.api.python.{trace}"))
    assert isinstance(found, ModelFilesError)
    assert str(found) == "config.json is missing"


class ErrorInJava(Exception):
    """Asks Java for its words, as py4j's own does."""

    def __str__(self) -> str:
        raise ConnectionRefusedError(111, "Connection refused")


def test_a_java_process_that_is_gone_is_named_though_nobody_can_ask_it_why() -> None:
    try:
        try:
            raise ErrorInJava
        finally:
            raise ConnectionRefusedError(111, "Connection refused")  # what cleans up meets the same
    except ConnectionRefusedError as error:
        known = translate(error)
    assert isinstance(known, EnvironmentFault)
    assert "spark.driver.memory" in str(known)
    assert isinstance(translate(Py4JNetworkError("Answer from Java side is empty")), EnvironmentFault)


def test_a_refused_connection_to_java_is_told_from_one_to_somebody_else() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = JavaGateway(gateway_parameters=GatewayParameters(address="127.0.0.1", port=port))
    with pytest.raises((OSError, Py4JNetworkError)) as refused:
        gateway.jvm.java.lang.System.currentTimeMillis()
    assert isinstance(translate(refused.value), EnvironmentFault)
    with pytest.raises(ConnectionRefusedError) as elsewhere:
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert translate(elsewhere.value) is None
