"""Submitting the job to a standalone cluster, as docs/platforms/spark-submit.md says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from tests.clusters.services import Service
from tests.clusters.standalone import QUICK, ROOT, Standalone
from tests.faults.bench import Bench


@dataclass
class Submitter:
    """The job on a bench's table, on the cluster.

    Attributes:
        cluster: Where it runs.
        bench: Whose table.
        wheel: The package.
        python: Of driver and executors.
        jars: More JARs than Delta's, which stand on each machine.
        conf: Spark's settings beside those of all tests.
        script: The application, which takes the configuration's file first.
        n_started: How many drivers were started.
    """

    cluster: Standalone
    bench: Bench
    wheel: Path
    python: Path
    jars: Sequence[Path] = ()
    conf: Mapping[str, str] = field(default_factory=dict)
    script: Path = ROOT / "jobs" / "embed_table.py"
    n_started: int = 0

    def start(
        self,
        packages: list[str] | None = None,
        options: list[str] | None = None,
        archive: Path | None = None,
        arguments: Sequence[str] = (),
        **sections: dict[str, Any],
    ) -> Service:
        """Start spark-submit.

        Args:
            packages: Options that bring Delta; by default its JARs as files, and quick plans.
            options: More options.
            archive: A packed environment for the executors, in place of the wheel as a Python file.
            arguments: Of the application, behind the configuration's file.
            sections: Of the configuration, over those of all tests.
        """
        self.n_started += 1
        file = self.bench.folder / "cluster.yaml"
        settings = {
            "spark.executor.memory": "1g",
            "spark.driver.memory": "1g",
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.log.level": "WARN",
        }
        blocks = {
            "target": {"table": str(self.bench.folder / "vectors")},
            "runtime": {"wave_rows": 20},
            "spark": {"conf": settings | ({} if packages else QUICK) | self.conf},
        }
        for name, section in sections.items():
            blocks[name] = blocks.get(name, {}) | section
        file.write_text(yaml.safe_dump(self.bench.blocks(**blocks)))
        jars = packages or ["--jars", ",".join([*resolved_delta_jars(), *(f"local:{jar}" for jar in self.jars)])]
        memory = ["--driver-memory", "1g", "--executor-memory", "1g"]  # the driver's JVM is there before the file is read
        brought = ["--py-files", str(self.wheel)] if archive is None else ["--archives", f"{archive}#environment"]
        all_options = [*brought, *jars, *memory, *(options or [])]
        env = {} if archive is None else {"PYSPARK_PYTHON": "./environment/bin/python", "PYTHONPATH": str(self.wheel)}
        return self.cluster.submit(
            [str(self.script), str(file), *arguments], all_options, self.python, f"{self.bench.folder.name}-{self.n_started}", env
        )

    def run(self, **arguments: Any) -> dict[str, Any]:
        """Run the job to its end, which must be good; gives its report."""
        driver = self.start(**arguments)
        status = driver.finish()
        assert status == 0, driver.written()[-4000:]
        return self.bench.report()
