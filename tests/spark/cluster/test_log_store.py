"""Which tables two drivers may write at once, by their place and by settings; the store itself is in `tests/clusters`."""

from __future__ import annotations

import pytest

from metaeol_udf.spark.cluster.finding import Level
from metaeol_udf.spark.cluster.log_store import check_commits

S3A, SINGLE, DYNAMO = "spark.delta.logStore.s3a.impl", "io.delta.storage.S3SingleDriverLogStore", "io.delta.storage.S3DynamoDBLogStore"


@pytest.mark.parametrize(
    ("location", "settings", "level"),
    [
        ("/data/table", {}, Level.OK),
        ("hdfs://host/table", {}, Level.OK),
        ("abfss://container@account/table", {}, Level.OK),
        ("s3a://bucket/table", {}, Level.WARNING),
        ("S3A://bucket/table", {}, Level.WARNING),
        ("s3://bucket/table", {}, Level.WARNING),
        ("s3a://bucket/table", {"spark.hadoop.fs.s3a.create.performance": "true"}, Level.WARNING),
        ("s3a://bucket/table", {S3A: SINGLE}, Level.WARNING),
        ("s3a://bucket/table", {S3A: DYNAMO}, Level.OK),
        ("s3a://bucket/table", {"spark.delta.logStore.class": DYNAMO}, Level.OK),
        ("s3://bucket/table", {S3A: DYNAMO}, Level.WARNING),
    ],
)
def test_a_table_on_s3_is_for_one_driver_unless_its_log_store_keeps_drivers_apart(
    location: str, settings: dict[str, str], level: Level
) -> None:
    finding = check_commits(location, settings.get)
    assert finding.level is level, finding
    assert level is Level.OK or "spark.delta.logStore." in finding.setting


def test_no_key_of_a_location_is_shown() -> None:
    assert "secret" not in str(check_commits("s3a://key:secret@bucket/table", {}.get))
