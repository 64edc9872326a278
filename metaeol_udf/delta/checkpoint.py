"""Where a stream keeps how far it has read the source: the folder of its checkpoint, and versions in files beside it."""

from __future__ import annotations

import hashlib
import json

from pyspark.sql import Row, SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.base.small_files import SmallFile
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.tables.refs import TableRef, open_table
from metaeol_udf.errors import InputError


def checkpoint_root(config: JobConfig, location: str) -> str:
    """Find the folder of all checkpoints of the streams into a target, which stands at `location`."""
    return (config.stream.checkpoint or f"{location.rstrip('/')}__metaeol_checkpoint").rstrip("/")


def find_checkpoint(spark: SparkSession, config: JobConfig, source: Source, target: TableRef, column: str, label: str) -> tuple[str, bool]:
    """Find the folder of a stream's checkpoint, and whether the source has a change feed.

    Other rows, other fingerprints (`label` is that of `RowFingerprints`), or a table made anew is another stream.
    """

    def detail_of(ref: TableRef) -> Row:
        return open_table(spark, ref, "source.table" if ref == source.table else "target.table").detail().collect()[0]

    place, into, table = config.source, detail_of(target), source.open(spark)
    detail = None if table is None else detail_of(table)
    feed = detail is not None and str(detail["properties"].get("delta.enableChangeDataFeed", "false")).lower() == "true"
    identity: list[object] = [
        str(source) if detail is None else detail["id"],
        into["id"],
        place.key,
        place.text,
        place.where,
        *([] if place.format_text is None else [place.format_text]),
        *([] if place.key_columns is None else [place.key_columns]),
        column,
        label,
        feed,
    ]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{checkpoint_root(config, into['location'])}/{digest}", feed


class StartingPoint:
    """A version of the source that a stream must remember, in a file beside its checkpoint: by default that which it began from.

    Without it a stream that found nothing at first would begin anew with each run: `latest` would leave out what was
    committed between two runs, `earliest` would look at the whole table every time.

    Attributes:
        version: The version; None before the first run.
    """

    def __init__(self, spark: SparkSession, checkpoint: str, kind: str = "start") -> None:
        """Read the version; `kind` ends the file's name.

        Raises:
            InputError: The file holds something else: to begin anew unasked could leave out commits.
        """
        self._file = SmallFile(spark, f"{checkpoint}.{kind}")
        content = self._file.read()
        if content and not (content.isascii() and content.isdecimal()):
            raise InputError(
                f"stream.checkpoint: the file {checkpoint}.{kind} is damaged, it must hold a version of the source: delete it and the "
                "folder beside it, and the stream begins anew"
            )
        self.version = int(content) if content else None

    def set(self, version: int) -> None:
        """Set where the stream begins."""
        self._file.write(str(version))
        self.version = version

    def forget(self) -> None:
        """Forget where the stream began: the next run begins anew."""
        self._file.delete()
        self.version = None
