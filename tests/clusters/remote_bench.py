"""A table on S3 or HDFS, and the job on it."""

from __future__ import annotations

from typing import Any

from tests.clusters.s3 import BUCKET
from tests.faults.bench import Bench


class RemoteBench(Bench):
    """A bench whose tables stand on another file system than the machine's, each test's in a folder of its own."""

    root: str = ""

    @property
    def path(self) -> str:
        return self.uri("table")

    def uri(self, name: str) -> str:
        return f"{self.root}/{name}"

    def table(self, name: str = "table") -> Any:
        return self.spark.read.format("delta").load(self.uri(name))


class S3Bench(RemoteBench):
    """One on S3, each test's tables under a prefix of its own."""

    bucket, prefix = BUCKET, ""

    def uri(self, name: str) -> str:
        return f"s3a://{self.bucket}/{self.prefix}/{name}"

    def embed(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """Run the job with a target of its own."""
        return self.run(**{"target": {"table": self.uri("vectors")}, "runtime": {"wave_rows": 10}, **sections})
