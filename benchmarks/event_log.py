"""What Spark did in a span of time, by its own event log: jobs, shuffled bytes, and passes over the files of each table.

A session writes the log with `spark.eventLog.enabled`. The log is complete once the session has stopped. In the log of a running
session the last events may be missing, and it can only be read with `spark.eventLog.compress` false.

How passes are counted. Each scan of files in a plan has metrics of its own, which Spark calls accumulators. The plans in the log name
them. A scan has run where tasks updated its accumulators. It counts once for each stage in which it read the same partition. So scans
count as they ran, and not as plans show them:

- A plan that reads a cached relation shows the scan below the cache again. Only the stage that filled the cache updated its accumulators.
- A subtree below `ReusedExchange` has the accumulators of the exchange that it stands for.
- Adaptive execution may replace a plan by one that lacks a scan that ran. All versions of a plan are looked at.
- A global sort reads its input in two stages, the first of which finds the ranges. These are two passes.
- `take` looks at other partitions in each of its stages. This is one pass.

What runs outside every SQL execution, such as the RDD of a DataFrame, has no plan in the log. Its tasks still tell how many bytes of
files they read. `Cost.unattributed_input_bytes` is the sum over tasks that read files and updated no accumulator of a known scan. Rows
that Spark keeps (a cache, a local checkpoint) are not read from files, though Spark counts them as input: a stage with kept rows counts
only where a scan measured its time.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

Event = dict[str, Any]

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_ROWS, _FILES, _SCAN_TIME = "number of output rows", "number of files read", "scan time"
#: `PreparedDeltaFileIndex(1 paths)[file:/data/table]`: the class of the index, and the first path.
_LOCATION = re.compile(r"(?P<index>\w+)\s*\(\d+ paths\)\[(?:file:)?(?P<path>[^,\]]*)")


@dataclass(frozen=True)
class Scan:
    """One scan of a table's files that ran.

    Attributes:
        table: The table's folder.
        columns: The columns that were read from files, in full.
        passes: How often the same partition was read.
        files: Files that were read, where the plan's metrics tell.
        rows: Rows that came out, of all passes together.
    """

    table: str
    columns: tuple[str, ...]
    passes: int
    files: int | None
    rows: int


@dataclass(frozen=True)
class Cost:
    """What Spark did in a span.

    Attributes:
        jobs: Spark jobs that began.
        shuffle_bytes: Bytes that tasks wrote for a shuffle, as they were compressed.
        scans: Scans of the files of tables.
        log_scans: Passes over JSON and Parquet files of a `_delta_log`.
        unattributed_input_bytes: Bytes of files that tasks read and no scan of a known plan has read.
    """

    jobs: int
    shuffle_bytes: int
    scans: tuple[Scan, ...]
    log_scans: int
    unattributed_input_bytes: int

    def passes(self, table: str | Path, column: str | None = None, *, without: str | None = None, min_rows: int = 0) -> int:
        """Count passes over a table.

        Args:
            table: The table's folder.
            column: Count scans that read this column; None counts whichever columns they read.
            without: Leave out scans that read this column.
            min_rows: Leave out scans of fewer rows a pass.
        """
        return sum(
            scan.passes
            for scan in self.scans
            if scan.table == str(table)
            and (column is None or column in scan.columns)
            and (without is None or without not in scan.columns)
            and scan.rows >= min_rows * scan.passes
        )


@dataclass(frozen=True)
class _Node:
    """A scan of files as plans show it."""

    table: str
    columns: tuple[str, ...]
    is_log: bool
    accumulators: tuple[tuple[str, int], ...]  # name and id

    def accumulator(self, name: str) -> int:
        return dict(self.accumulators).get(name, -1)


@dataclass(frozen=True)
class _Task:
    """A task that ended. Its `updates` are the SQL metrics that it changed: by id, name and addition."""

    stage: int
    partition: int
    shuffle_bytes: int
    input_bytes: int
    updates: Mapping[int, tuple[str, int]]


@dataclass(frozen=True)
class EventLog:
    """The events of one session that count.

    Attributes:
        nodes: Scans of files in all versions of all plans, by the id of each of their accumulators.
        files: Values that the driver gave to accumulators, by id.
        queries_ms: When each SQL execution began, in milliseconds since 1970, by id.
        jobs_ms: When the query of each job began, or the job itself where it has none.
        stages_ms: The same by stage, of the first job that names the stage: later ones find its work done.
        tasks: Tasks that ended.
        reading: Stages that hold a scan of files.
        keeping: Stages that hold rows which Spark keeps: cached ones, and local checkpoints.
    """

    nodes: dict[int, _Node] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    queries_ms: dict[int, int] = field(default_factory=dict)
    jobs_ms: list[int] = field(default_factory=list)
    stages_ms: dict[int, int] = field(default_factory=dict)
    tasks: list[_Task] = field(default_factory=list)
    reading: set[int] = field(default_factory=set)
    keeping: set[int] = field(default_factory=set)

    def cost(self, since_s: float, until_s: float) -> Cost:
        """Count what began in a span.

        A job and its tasks count where their query began: adaptive execution may end a query and still start a job for the part of it
        that has become superfluous.

        Args:
            since_s: The first moment of the span, as `time.time` gives it on the driver's machine.
            until_s: The first moment after it.
        """
        since_ms, until_ms = int(since_s * 1000), int(until_s * 1000)
        tasks = [task for task in self.tasks if since_ms <= self.stages_ms[task.stage] < until_ms]
        where: dict[_Node, set[tuple[int, int]]] = defaultdict(set)
        rows: dict[_Node, int] = defaultdict(int)
        for task in tasks:
            for number, (name, added) in task.updates.items():
                if node := self.nodes.get(number):
                    where[node].add((task.partition, task.stage))
                    rows[node] += added if name == _ROWS else 0
        passes = {node: _greatest_count(partition for partition, _ in places) for node, places in where.items()}
        scans = [
            Scan(node.table, node.columns, n, self.files.get(node.accumulator(_FILES)), rows[node])
            for node, n in passes.items()
            if not node.is_log
        ]
        return Cost(
            jobs=sum(since_ms <= began < until_ms for began in self.jobs_ms),
            shuffle_bytes=sum(task.shuffle_bytes for task in tasks),
            scans=tuple(sorted(scans, key=lambda scan: (scan.table, scan.columns))),
            log_scans=sum(n for node, n in passes.items() if node.is_log),
            unattributed_input_bytes=sum(task.input_bytes for task in tasks if self._is_unattributed(task)),
        )

    def _is_unattributed(self, task: _Task) -> bool:
        """Tell whether a task read files without a scan of a known plan."""
        if task.stage not in self.reading or any(number in self.nodes for number in task.updates):
            return False
        # A stage that reads kept rows holds the scan which they come from, too. It runs where rows are kept for the first time.
        return task.stage not in self.keeping or any(name == _SCAN_TIME for name, _ in task.updates.values())


def read_event_log(place: Path) -> EventLog:
    """Read an event log: one file, a folder of rolling files, or the folder that holds the log of one session."""
    log = EventLog()
    for event in _events(place):
        kind = event["Event"].removeprefix(_SQL)
        if kind == "SQLExecutionStart":
            log.queries_ms[event["executionId"]] = event["time"]
            _add_nodes(log.nodes, event["sparkPlanInfo"])
        elif kind == "SQLAdaptiveExecutionUpdate":
            _add_nodes(log.nodes, event["sparkPlanInfo"])
        elif kind == "DriverAccumUpdates":
            log.files.update(event["accumUpdates"])
        elif kind == "SparkListenerJobStart":
            _add_job(log, event)
        elif kind == "SparkListenerStageSubmitted":
            _add_stage(log, event["Stage Info"])
        elif kind == "SparkListenerTaskEnd":
            log.tasks.append(_task(event))
    return log


def _events(place: Path) -> Iterator[Event]:
    """Read the events in their order. The last line of a running session's log may be half a line."""
    for path in _files(place):
        with pa.input_stream(str(path), compression="zstd" if ".zstd" in path.suffixes else None) as stream:
            *lines, rest = stream.read().split(b"\n")
        yield from map(json.loads, lines)
        if rest and path.suffix != ".inprogress" and not list(path.parent.glob("appstatus_*.inprogress")):
            raise ValueError(f"{path}: the last event is cut off")


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    parts = sorted(place.glob("events_*"), key=lambda path: int(path.name.split("_")[1]))
    if parts:
        return parts
    logs = [path for path in place.iterdir() if not path.name.startswith(".")]
    if len(logs) != 1:
        raise ValueError(f"{place} holds {len(logs)} event logs, not one")
    return _files(logs[0])


def _add_nodes(nodes: dict[int, _Node], plan: Event) -> None:
    """Add the scans of a plan."""
    found = _LOCATION.search(plan["metadata"].get("Location", ""))
    if found:
        accumulators = tuple((metric["name"], metric["accumulatorId"]) for metric in plan["metrics"])
        table, of_log, _ = found["path"].partition("/_delta_log")
        is_log = bool(of_log) or found["index"] == "DeltaLogFileIndex"
        node = _Node(table, _top_names(plan["metadata"].get("ReadSchema", "")), is_log, accumulators)
        nodes.update(dict.fromkeys((number for _, number in accumulators), node))
    for child in plan["children"]:
        _add_nodes(nodes, child)


def _top_names(schema: str) -> tuple[str, ...]:
    """Names of the columns of `struct<id:bigint,vector:array<float>>`."""
    names, depth, begin = [], 0, 0
    inner = schema.removeprefix("struct<").removesuffix(">")
    for at, letter in enumerate(f"{inner},"):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and not depth:
            names.append(inner[begin:at].partition(":")[0])
            begin = at + 1
    return tuple(filter(None, names))


def _add_job(log: EventLog, event: Event) -> None:
    query = event.get("Properties", {}).get("spark.sql.execution.id", "-1")
    submitted_ms: int = event["Submission Time"]
    began_ms = log.queries_ms.get(int(query), submitted_ms)
    log.jobs_ms.append(began_ms)
    for stage in event["Stage IDs"]:
        log.stages_ms.setdefault(stage, began_ms)


def _add_stage(log: EventLog, info: Event) -> None:
    rdds = info["RDD Info"]
    if any(rdd["Name"] == "FileScanRDD" for rdd in rdds):
        log.reading.add(info["Stage ID"])
    if any(rdd["Storage Level"]["Use Memory"] or rdd["Storage Level"]["Use Disk"] for rdd in rdds):
        log.keeping.add(info["Stage ID"])


def _task(event: Event) -> _Task:
    info, metrics = event["Task Info"], event.get("Task Metrics") or {}
    updates = {
        update["ID"]: (update["Name"], int(update.get("Update", 0)))
        for update in info["Accumulables"]
        if update.get("Metadata") == "sql" and "Name" in update
    }
    written = metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
    read = metrics.get("Input Metrics", {}).get("Bytes Read", 0)
    partition = info.get("Partition ID", info["Index"])
    return _Task(event["Stage ID"], partition, written, read, updates)


def _greatest_count(values: Iterator[int]) -> int:
    counts: dict[int, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return max(counts.values())
