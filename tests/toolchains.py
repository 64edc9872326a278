"""Runs the engine's tests with each set of libraries that users and machines have, and prints a table: `make test-toolchains`.

    python -m tests.toolchains [--only oldest] [--keep]

- `pinned`: what `requirements/dev.txt` names.
- `torch 2.11`: torch 2.11 with transformers 5.17, as machines with an H100 have them.
- `oldest`: of each dependency the oldest release that `pyproject.toml` allows.

An environment is made in a temporary folder (torch makes it 5 GB large) and removed before the next one is made. Exit status 1 says that a
set failed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tomllib
from rich.console import Console
from rich.table import Table

from tests.installations import packages_of
from tests.matrix import ROOT, TEST_PACKAGES, ask, install, run_tests, say

#: The engine, and the prompts that it computes.
TESTS = ("--no-jvm", "-m", "not slow and not long", "-n", "2", "--dist", "loadfile", "tests/encoder", "tests/prompts")
SETS = ("pinned", "torch 2.11", "oldest")
TORCH_2_11 = ("torch==2.11.0", "transformers==5.17.0")
SHOWN = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy")


def oldest() -> list[str]:
    """The oldest releases that `pyproject.toml` allows, of what the engine needs and of what `metaeol model prepare` needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *(name for extra in ("demo", "prepare") for name in project["optional-dependencies"][extra])]
    return [re.sub(r">=([\w.]+).*", r"==\1", requirement) for requirement in needed]


def make_environment(name: str, folder: Path) -> Path:
    """Make an environment with a set of libraries; returns its interpreter."""
    base = ROOT / ".venv" / "bin" / "python"
    if name == "pinned":
        return base
    say(f"{name}: installing into {folder} ...")
    subprocess.run([base, "-m", "venv", folder], check=True)
    inner = folder / "bin" / "python"
    if name == "oldest":
        install(inner, *oldest(), *TEST_PACKAGES)
    else:
        packages, site = map(packages_of, (base, inner))
        (site / "zz-base.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n", encoding="utf-8")  # behind its own packages
        install(inner, *TORCH_2_11)
    install(inner, "--no-deps", "-r", str(ROOT / "requirements" / "model.txt"))
    install(inner, "--no-deps", "-e", str(ROOT))
    return inner


def try_set(name: str, *, keep: bool) -> tuple[bool, list[str]]:
    """Run the tests with a set of libraries; returns whether they passed, and a row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="metaeol-toolchain-"))
    try:
        python = make_environment(name, folder / "env")
        versions = ask(python, f"from importlib.metadata import version; print(*map(version, {SHOWN!r}))").split()
        say(f"{name}: {', '.join(f'{package} {version}' for package, version in zip(SHOWN, versions, strict=True))} ...")
        started = time.perf_counter()
        log = Path(tempfile.gettempdir(), f"{folder.name}.log")
        passed, said = run_tests(python, folder / "pytest", log, TESTS)
        return passed, [name, *versions, f"{'passed' if passed else 'FAILED'}: {said} ({time.perf_counter() - started:.0f} s in all)"]
    except subprocess.CalledProcessError as error:
        failed = f"FAILED: {' '.join(map(str, error.cmd))[:200]} ended with {error.returncode}"
        return False, [name, *[""] * len(SHOWN), failed]
    finally:
        if not keep:
            shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the sets that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETS, action="append", help="a set of libraries; may be given more than once")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    options = parser.parse_args(arguments)
    table, failed = Table("libraries", *SHOWN, "outcome"), False
    for name in options.only or SETS:
        passed, row = try_set(name, keep=options.keep)
        failed |= not passed
        table.add_row(*row)
    Console(width=200, force_terminal=False).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
