"""A driver that runs the job each time it is told to: `soaking_driver.py CONFIG FOLDER`.

The file `FOLDER/told` holds the number of the run that is wanted. What became of it stands in `FOLDER/NUMBER.json`: its report, or its
`error`. The driver says in its log which phase a run is in.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from metaeol_udf import run_embed
from metaeol_udf.errors import MetaEOLError


def say(number: str, phase: str) -> None:
    """Say in which phase a run is."""
    sys.stderr.write(f"run {number}: {phase}\n")
    sys.stderr.flush()


def main(config: Path, folder: Path) -> None:
    """Run until the process is killed."""
    done = ""
    while True:
        told = folder / "told"
        number = told.read_text() if told.exists() else ""
        if number in ("", done):
            time.sleep(0.1)
            continue
        try:
            answer: dict[str, Any] = run_embed(config, between=functools.partial(say, number))
        except MetaEOLError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        part = folder / f"{number}.part"
        part.write_text(json.dumps(answer))
        part.rename(folder / f"{number}.json")
        done = number


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
