"""Runs what a page of the documentation shows, in order, in one folder, and compares what is printed.

    python -m tests.docs.page_runner PAGE FOLDER

A comment before a block says what is done with it; blocks without one are only read:

- `<!-- file: NAME -->` writes the block into a file.
- `<!-- run -->` runs each line that begins with `$ `; the lines below it must be what is printed. A line `...` stands for any lines, an
  ellipsis `…` in a line for any characters. A last line `exit status N` says that the command ends so; others must end with 0. A Python
  block runs as it stands, and the `text` block behind it is its output.
- `<!-- run, figures differ -->` does the same, but any number equals any other, and so does the space around it.

Of standard error, only the messages that begin with `metaeol: ` are compared. `metaeol` and `python` run in this process, so that the
commands of a page share a Spark session; everything else runs in a shell. One page is one process: Spark looks for relative paths in the
folder in which its session was started.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metaeol_udf import cli

_BLOCK = re.compile(
    r"<!-- (?P<what>run|run, figures differ|file: [\w./-]+) -->\n+"
    r"```(?P<kind>\w+)\n(?P<body>.*?)^```$(?:\n\n```text\n(?P<shown>.*?)^```$)?",
    flags=re.DOTALL | re.MULTILINE,
)
_MARKED = re.compile(r"<!-- (?:run|file)\b.*?-->")


@dataclass(frozen=True)
class Step:
    """One thing that a page shows.

    Attributes:
        line: Of the page, from 1.
        command: A shell line, Python code, or the content of a file.
        file: The file to write; None where something is run.
        is_python: Whether the command is Python code.
        shown: The output that the page shows.
        figures_differ: Whether numbers count.
    """

    line: int
    command: str
    shown: str = ""
    file: str | None = None
    is_python: bool = False
    figures_differ: bool = False


def steps_of(page: str) -> list[Step]:
    """The steps of a page, in order.

    Raises:
        ValueError: A comment marks no block that could be run.
    """
    steps: list[Step] = []
    for block in _BLOCK.finditer(page):
        line = page.count("\n", 0, block.start()) + 1
        what, kind, body = block["what"], block["kind"], block["body"]
        if what.startswith("file: "):
            steps.append(Step(line, body, file=what.removeprefix("file: ")))
        elif kind == "python":
            steps.append(Step(line, body, block["shown"] or "", is_python=True, figures_differ=what != "run"))
        elif kind == "console":
            steps += [Step(line, command, shown, figures_differ=what != "run") for command, shown in _commands(body)]
        else:
            raise ValueError(f"line {line}: a block of {kind!r} cannot be run")
    if len(_MARKED.findall(page)) != len(list(_BLOCK.finditer(page))):
        raise ValueError("a comment that asks for a run stands before no block")
    return steps


def _commands(body: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block with what is shown below each."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    if parts[0].strip():
        raise ValueError(f"a console block to be run begins with {parts[0].splitlines()[0]!r}, not with '$ '")
    for part in parts[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def run_step(step: Step, folder: Path) -> str:
    """Do one step; returns what was printed, with the exit status where it is not 0."""
    if step.file is not None:
        path = folder / step.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.command, encoding="utf-8")
        return ""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = _run_code(step.command) if step.is_python else _run_line(step.command, folder, printed)
    # On standard error, progress depends on the machine's speed; messages do not.
    text = printed.getvalue() + "".join(f"{line}\n" for line in said.getvalue().splitlines() if line.startswith("metaeol: "))
    return text if status == 0 else f"{text}exit status {status}\n"


def _run_code(code: str) -> int:
    exec(compile(code, "page", "exec"), {"__name__": "__main__"})
    return 0


def _run_line(line: str, folder: Path, printed: io.StringIO) -> int:
    words = shlex.split(line, comments=True)
    if words[0] == "metaeol":
        return cli.run(words[1:])
    if words[0] == "python" and len(words) == 2:
        runpy.run_path(str(folder / words[1]), run_name="__main__")
        return 0
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    printed.write(done.stdout + done.stderr)
    return done.returncode


def matches(step: Step, printed: str) -> bool:
    """Whether what was printed is what the page shows."""
    shown = [_normal(line, step.figures_differ) for line in step.shown.rstrip("\n").splitlines()]
    found = "".join(f"{_normal(line, step.figures_differ)}\n" for line in printed.rstrip("\n").splitlines())
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line).replace("…", ".*") + r"\n" for line in shown)
    return re.fullmatch(pattern, found) is not None


def _normal(line: str, figures_differ: bool) -> str:
    line = line.rstrip()
    return re.sub(r"\s*-?\d[\d,.:]*\s*", " # ", line) if figures_differ else line


def main(page: Path, folder: Path) -> int:
    """Run a page; the first step whose output is another than shown is told, and ends it with status 1."""
    text = page.read_text(encoding="utf-8")
    os.chdir(folder)
    for step in steps_of(text):
        printed = run_step(step, folder)
        if not matches(step, printed):
            sys.stderr.write(f"{page.name}, line {step.line}: {step.command}\n--- printed\n{printed}--- the page shows\n{step.shown}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
