"""Results as files: what was measured, on what, by which command; and tables of them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FOLDER = Path("artifacts/bench")  # git-ignored; `python -m benchmarks.publish` makes pages out of it


def command_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a benchmark's parser, with `--model` and `--json`; transformers prints no notes and bars among the figures from then on."""
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--json", type=Path)
    return parser


def write_results(path: Path, rows: Sequence[Row], notes: Sequence[str] = (), **more: Any) -> None:
    """Write rows with the machine, the command, the commit and the date that they were measured at."""
    found = {"command": command_line(), "date": time.strftime("%Y-%m-%d"), "commit": _commit(), "machine": describe_machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**found, **more, "notes": list(notes), "rows": list(rows)}, indent=2) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """What `write_results` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def command_line() -> str:
    """How this process was called, as a user would type it; where files go is left out, and so are paths of this machine."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name.removesuffix(".__main__") if module is not None else Path(sys.argv[0]).name
    arguments, skips = [], False
    for argument in sys.argv[1:]:
        if not skips and argument != "--json":
            arguments.append("PATH" if Path(argument).is_absolute() else argument)
        skips = argument == "--json" and not skips
    return shlex.join(["python", "-m", name, *arguments])


def describe_machine() -> str:
    """Processor, threads and library versions in one line."""
    import torch
    import transformers

    threads = torch.get_num_threads()
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {threads} thread{'s' if threads > 1 else ''}, Python {platform.python_version()}, "
        f"torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}  # the first CPU's
    # Virtual machines hide the model's name, but not its family, which tells a generation.
    family = f" (family {found['cpu family']}, model {found.get('model')})" if "cpu family" in found else ""
    has_bf16 = "avx512_bf16" in found.get("flags", "").split()
    return f"{found.get('model name', platform.machine())}{family} with {'AVX512-BF16' if has_bf16 else 'no AVX512-BF16'}"


def _commit() -> str:
    """The commit of the checkout, with `+` where files differ from it."""
    root = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=7"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> str:
    """Rows as a Markdown table.

    Args:
        rows: By key; a key that a row lacks is an empty cell.
        columns: Keys to show and their headings; by default all, as they come.
    """
    columns = columns or {key: key for row in rows for key in row}
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a Markdown table."""
    print(markdown_table(rows), flush=True)


def significant(value: float, digits: int = 3) -> float:
    """Rounded to significant digits: a rate has no more of them."""
    return float(f"{value:.{digits}g}")
