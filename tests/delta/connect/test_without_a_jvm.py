"""What stands in for Delta's classes and Hadoop's file systems over Spark Connect; tests/clusters/test_connect.py runs the job."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.types import ArrayType, FloatType, StringType, StructField

from metaeol_udf.config import parse_config
from metaeol_udf.delta.base.context import check_over_connect, wants_connect
from metaeol_udf.delta.connect.local_folder import LocalFolder
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.refs import TableRef
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.errors import ConflictError, EnvironmentFault
from metaeol_udf.spark.cluster.connect import start_remote

NEEDED = {"source": {"table": "/a/table", "key": ["id"]}, "embedding": {"model": "/a/model"}, "target": {"table": "/a/target"}}


class Client:
    """A session that looks like one of Spark Connect, and notes the statements."""

    __module__ = "pyspark.sql.connect.session"

    def __init__(self) -> None:
        self.statements: list[str] = []

    def sql(self, statement: str) -> Client:
        self.statements.append(statement)
        return self

    def collect(self) -> list[Any]:
        return []


@pytest.fixture
def client() -> Any:
    return Client()


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ({"source": {"where": "id > 5"}}, "source.where"),
        ({"source": {"table": None, "path": "/files", "format": "parquet"}}, "source.path"),
        ({"source": {"table": None, "query": "SELECT 1"}}, "source.query"),
        ({"embedding": {"long_texts": "passages", "passage": {"tokens": 64}}}, "embedding.long_texts=passages"),
        ({"quality": {"gate": True}}, "quality.gate"),
        ({"runtime": {"task_gpus": 1}}, "runtime.task_gpus"),
    ],
)
def test_what_cannot_be_done_over_connect_is_refused_with_the_reason(sections: dict[str, Any], setting: str) -> None:
    blocks = {name: NEEDED.get(name, {}) | sections.get(name, {}) for name in {*NEEDED, *sections}}
    with pytest.raises(EnvironmentFault, match=rf"^{setting} cannot be used over Spark Connect: .*spark-submit jobs/embed_table\.py"):
        check_over_connect(parse_config(blocks))
    check_over_connect(parse_config(NEEDED))


def test_a_session_that_was_given_says_whether_a_job_runs_over_connect(client: Any) -> None:
    assert wants_connect(parse_config(NEEDED), client)


def test_names_and_values_cannot_leave_their_place_in_a_statement(client: Any) -> None:
    columns = [StructField("a`b", ArrayType(FloatType())), StructField("c", StringType())]
    ref = TableRef("/a/table", is_path=True)
    alter_table(client, ref, columns, {"a`b": "it's"}, {"k'": "v\\"}, dropped=["c"], unset=["p'"])
    assert client.statements == [
        "ALTER TABLE delta.`/a/table` ADD COLUMNS (`a``b` array<float>, `c` string)",
        "ALTER TABLE delta.`/a/table` ALTER COLUMN `a``b` COMMENT 'it\\'s'",
        "ALTER TABLE delta.`/a/table` SET TBLPROPERTIES ('k\\'' = 'v\\\\')",
        "ALTER TABLE delta.`/a/table` UNSET TBLPROPERTIES IF EXISTS ('p\\'')",
        "ALTER TABLE delta.`/a/table` DROP COLUMNS (`c`)",
    ]


def test_a_client_takes_the_lock_of_a_table_on_its_own_disk(client: Any, tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    for location in (str(tmp_path), tmp_path.as_uri()):
        lock = RunLock(client, location, "20200101T000000-here")
        with lock.hold("a_job"):
            assert [path.name for path in (tmp_path / "_claims" / "a_job").iterdir()] == [lock.holder.name]
            second = RunLock(client, location, "20210101T000000-later")
            assert not second.is_alone()
            with pytest.raises(ConflictError, match="20200101T000000-here of the same job is at work"), second.hold("a_job"):
                raise AssertionError
        assert lock.is_alone()
    assert LocalFolder(str(tmp_path), "_claims").touched("a_job/nobody") is None


@pytest.mark.parametrize("location", ["s3a://bucket/journal", "/nosuch/journal", "dbfs:/journal"])
def test_a_client_takes_no_lock_where_it_sees_no_folder_and_says_so(client: Any, location: str, caplog: pytest.LogCaptureFixture) -> None:
    lock = RunLock(client, location, "20200101T000000-here")
    with caplog.at_level(logging.INFO, logger="metaeol_udf"), lock.hold("a_job"):
        assert lock.is_alone()
    assert "this storage takes no lock files" in caplog.text
    assert "this storage shows no lock files" in caplog.text


def test_a_server_that_does_not_answer_is_said_at_once_and_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(EnvironmentFault, match=r"nobody answers at sc://127\.0\.0\.1:9/ ") as refusal:
        start_remote("sc://127.0.0.1:9/;token=secret", {})
    assert "secret" not in str(refusal.value)
