"""Runs the fenced blocks of a documentation page in their order, and compares what they print with what the page says."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeol_udf import cli

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TOLERANCE = 0.02  # of printed scores: processors round differently


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: `python`, `console`, `yaml`, `text` or another, which is not run.
        code: What stands between the fences.
        output: The `text` block that follows directly, None where there is none.
        section: The last heading above it.
    """

    language: str
    code: str
    output: str | None
    section: str


def blocks_of(name: str) -> list[Block]:
    """The blocks of a page in `docs/`."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = list(_FENCE.finditer(page))
    headings = [(match.start(), match.group(1)) for match in re.finditer(r"^#+ (.*)$", page, re.MULTILINE)]
    blocks = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        adjacent = following is not None and following.group(1) == "text" and page[match.end() : following.start()].strip() == ""
        section = [title for start, title in headings if start < match.start()][-1]
        blocks.append(Block(match.group(1), match.group(2), following.group(2) if following is not None and adjacent else None, section))
    return blocks


def run_block(block: Block, names: dict[str, Any]) -> str | None:
    """Run a block in the current folder; None where its language is not one that runs.

    A YAML block is written to the file that its first line names, a console block is run by our command line.
    """
    if block.language == "yaml":
        Path(block.code.splitlines()[0].removeprefix("# ")).write_text(block.code, encoding="utf-8")
        return None
    if block.language == "python":
        # Spark's JVM and the workers stay in the folder that they were started in.
        code = block.code.replace('"demo/', f'"{Path.cwd()}/demo/').replace("'demo/", f"'{Path.cwd()}/demo/")
        names["__name__"] = "__main__"  # so that functions travel to workers by value
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, f"section {block.section!r}", "exec"), names)
        return output.getvalue()
    if block.language == "console":
        return "".join(_run_command(line.removeprefix("$ metaeol ")) for line in block.code.splitlines() if line.startswith("$ metaeol "))
    return None


def said_by(block: Block) -> str:
    """What the page says that a block prints."""
    if block.language == "console":
        return "".join(f"{line}\n" for line in block.code.splitlines() if not line.startswith("$ "))
    return block.output or ""


def assert_same_output(printed: str, said: str) -> None:
    """Lines and words must be equal; numbers with a decimal point nearly so."""
    assert [len(line.split()) for line in printed.splitlines()] == [len(line.split()) for line in said.splitlines()], printed
    for found, wanted in zip(printed.split(), said.split(), strict=True):
        if re.fullmatch(r"[\[(]*-?\d+\.\d+[\])]*,?", wanted):
            assert math.isclose(float(found.strip("[](),")), float(wanted.strip("[](),")), abs_tol=_TOLERANCE), printed
        else:
            assert found == wanted, printed


def _run_command(arguments: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert cli.run(shlex.split(arguments)) == 0
    return output.getvalue()


def make_tickets(spark: Any, folder: Path, model_dir: Path) -> dict[str, Any]:
    """Go to a folder and run the first blocks of search.md there, which make and embed the table of the examples.

    Returns:
        The names that the page's code shares.
    """
    (folder / "models").symlink_to(model_dir.parent)
    os.chdir(folder)
    names: dict[str, Any] = {"spark": spark}
    for block in blocks_of("search.md")[:2]:
        assert_same_output(run_block(block, names) or "", said_by(block))
    return names
