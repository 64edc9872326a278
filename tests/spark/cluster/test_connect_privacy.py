"""A canary in the texts is looked for in everything that a Connect server writes: its log at DEBUG, its event log, its scratch files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from metaeol_udf.spec import EmbeddingSpec
from tests.spark.cluster.connect_server import running_server

pytestmark = pytest.mark.slow  # `make test-slow`

CANARY = "canarytext9f3b7"


def test_no_surface_leaves_a_text_with_a_connect_server(spec: EmbeddingSpec, tmp_path: Path) -> None:
    texts = [None, "  ", *[f"{CANARY} sings {n}" for n in range(20)], f"{CANARY} \x00 \u202e " + "x" * 5000]
    source = tmp_path / "source"
    source.mkdir()
    pq.write_table(pa.table({"id": pa.array(range(len(texts)), pa.int32()), "text": pa.array(texts, pa.string())}), source / "0.parquet")
    written = tmp_path / "spec.yaml"
    written.write_text(yaml.safe_dump({"model": spec.model, "dtype": spec.dtype, "max_tokens": spec.max_tokens}))
    server_folder = tmp_path / "server"
    (server_folder / "events").mkdir(parents=True)
    (server_folder / "scratch").mkdir()
    settings = {
        "spark.log.level": "DEBUG",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": (server_folder / "events").as_uri(),
        "spark.local.dir": str(server_folder / "scratch"),
    }
    with running_server(Path(spec.model), server_folder, settings) as server:
        found = server.ask("every_surface_of_files", spec=str(written), folder=str(source))
    assert len(found["sql"]) == len(texts)
    assert found["errors"] == {"0": "null_text", "1": "empty_text"}
    log = (server_folder / "server.log").read_bytes()
    assert b" DEBUG " in log
    assert any((server_folder / "events").iterdir()), "no event log was written"
    assert CANARY.encode() in (source / "0.parquet").read_bytes(), "the canary is not where it must be: the search is blind"
    leaks = [path for path in server_folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert leaks == []
