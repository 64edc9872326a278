"""How a line of the log looks: as text, or as JSON for programs that collect logs."""

from __future__ import annotations

import json
import logging
import time

from metaeol_udf.formatting import visible
from metaeol_udf.terminal import current_log_fields


class TextLine(logging.Formatter):
    """Formats a line as time in UTC, level, place and message. Control characters are visible: names of tables may hold any."""

    converter = time.gmtime  # type: ignore[assignment]  # as logging's own documentation has it

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        return visible(super().format(record))


class JsonLine(logging.Formatter):
    """Formats a line as one JSON object: `time` in UTC, `level`, `logger`, `message`, and within a run `table`, `column` and `run_id`."""

    converter = time.gmtime  # type: ignore[assignment]  # as logging's own documentation has it

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        when = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03}Z"
        fields = {"time": when, "level": record.levelname, "logger": record.name, "message": super().format(record)}
        return json.dumps({**fields, **current_log_fields()})
