"""A table on S3, and the job on it."""

from __future__ import annotations

from typing import Any

from tests.clusters.s3 import BUCKET
from tests.faults.bench import Bench


class S3Bench(Bench):
    """A bench whose tables stand on S3, each test's under a prefix of its own."""

    prefix: str = ""
    bucket: str = BUCKET

    @property
    def path(self) -> str:
        return self.uri("table")

    def uri(self, name: str) -> str:
        return f"s3a://{self.bucket}/{self.prefix}/{name}"

    def table(self, name: str = "table") -> Any:
        return self.spark.read.format("delta").load(self.uri(name))

    def embed(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """Run the job with a target of its own."""
        return self.run(**{"target": {"table": self.uri("vectors")}, "runtime": {"wave_rows": 10}, **sections})
