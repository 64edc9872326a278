"""Spark Connect: a real server, and clients that have no Java."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from metaeol_udf.spark.cluster.connect import require_no_remote
from metaeol_udf.spark.cluster.resolve import resolve_on_worker
from metaeol_udf.spec import EmbeddingSpec
from tests.spark.cluster.connect_server import ConnectServer
from tests.spark.texts import EMBEDDED, ERRORS, TEXTS, assert_same

pytestmark = pytest.mark.slow  # `make test-slow`


@pytest.fixture(scope="module")
def expected(spec: EmbeddingSpec) -> NDArray[np.float32]:
    return MetaEOLEncoder.from_spec(spec, device="cpu").encode([str(TEXTS[number]) for number in EMBEDDED])


@pytest.fixture
def spec_file(spec: EmbeddingSpec, tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"model": spec.model, "dtype": spec.dtype, "max_tokens": spec.max_tokens}))
    return str(path)


def by_number(found: dict[str, Any]) -> dict[int, Any]:
    """JSON knows no integers as keys."""
    return {int(number): vector for number, vector in found.items()}


def test_every_surface_gives_the_encoders_vectors_over_connect(
    connect_server: ConnectServer, spec_file: str, expected: NDArray[np.float32]
) -> None:
    found = connect_server.ask("every_surface", spec=spec_file)
    assert by_number(found.pop("errors")) == ERRORS
    assert sorted(found) == ["sql", "transformer", "udf", "with_embeddings"]
    for vectors in found.values():
        assert_same(by_number(vectors), expected)


def test_a_pipeline_is_fitted_saved_and_read_back_over_connect(
    connect_server: ConnectServer, spec_file: str, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    found = connect_server.ask("pipeline", spec=spec_file, folder=str(tmp_path))
    assert set(found["predictions"]) <= {0.0, 1.0}
    assert len(found["predictions"]) == len(EMBEDDED)
    assert_same(by_number(found["loaded"]), expected)


def test_a_client_needs_no_copy_of_the_model(connect_server: ConnectServer, spec: EmbeddingSpec, expected: NDArray[np.float32]) -> None:
    fingerprint = resolve_local(spec).fingerprint
    for model, archive in ((ConnectServer.hub_id, None), ("spark-files:tiny", f"{connect_server.archive}#tiny")):
        found = connect_server.ask("model_on_the_cluster", model=model, archive=archive)
        assert_same(by_number(found["vectors"]), expected)
        assert found["fingerprint"] == fingerprint


def test_what_connect_cannot_do_ends_in_one_clear_message(connect_server: ConnectServer, spec: EmbeddingSpec, tmp_path: Path) -> None:
    blocks = {"source": {"table": str(tmp_path / "table"), "key": ["id"]}, "embedding": {"model": spec.model}}
    found = connect_server.ask("refusals", blocks=blocks)
    for name in ("run_embed, given", "run_embed, active"):
        kind, status, message = found[name]
        assert (kind, status) == ("EnvironmentFault", 5)
        assert "the server of Spark Connect has no Delta; start it with --packages io.delta:delta-spark" in message
    for name in ("run_stream", "search_table"):
        kind, status, message = found[name]
        assert (kind, status) == ("EnvironmentFault", 5)
        assert "the session is one of Spark Connect" in message
        assert "spark-submit jobs/embed_table.py" in message
        assert "with_embeddings" in message
    assert found["unreachable"][:2] == ["ConfigError", 2]
    assert "spark.addArtifacts" in found["unreachable"][2]
    assert found["missing"][:2] == ["ConfigError", 2]
    assert "no such folder" in found["missing"][2]
    assert "seen from the cluster's machine" in found["missing"][2]
    assert "'upper' is one of Spark's own functions" in found["name"][2]
    assert found["overwrite"][:2] == ["EnvironmentFault", 5]
    assert "save a Pipeline with it" in found["overwrite"][2]
    assert list(tmp_path.iterdir()) == []


def test_a_job_does_not_start_a_connect_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    require_no_remote({"spark.sql.shuffle.partitions": "2", "spark.api.mode": "classic"})
    for conf in ({"spark.remote": "sc://host"}, {"spark.api.mode": "connect"}):
        with pytest.raises(EnvironmentFault, match=r"spark\.conf asks for Spark Connect"):
            require_no_remote(conf)
    for conf, master in (({}, "sc://host:15002/;token=secret"), ({"spark.master": "SC://host:15002/;token=secret"}, None)):
        with pytest.raises(EnvironmentFault, match=r"spark\.master asks for Spark Connect.*spark-submit") as refusal:
            require_no_remote(conf, master)
        assert "secret" not in str(refusal.value)
    monkeypatch.setenv("SPARK_REMOTE", "sc://host")
    with pytest.raises(EnvironmentFault, match="variable SPARK_REMOTE asks for Spark Connect"):
        require_no_remote({})


def test_a_worker_says_what_is_wrong_with_a_models_files(spec: EmbeddingSpec, tmp_path: Path) -> None:
    assert f'"model_hash": "{resolve_local(spec).spec.model_hash}"' in resolve_on_worker(spec)
    (tmp_path / "config.json").write_text("{}")
    broken = resolve_on_worker(dataclasses.replace(spec, model=str(tmp_path)))
    assert '"is_files": true' in broken
    assert "names no number of layers" in broken
    assert ConfigError.exit_code != ModelFilesError.exit_code
