"""Runs a core of the tests with each Python and each Spark that the package supports, and prints a table: `make matrix`.

    python tests/matrix.py [--python 3.10,3.12] [--spark 4.0,4.2] [--keep]

A Python that is not on the machine is a line of the table, not a failure. Each Python gets one environment in a temporary folder (torch
makes it 6 GB large; it is removed before the next one is made), in which one Spark after the other is installed. The Python of `.venv` sees
the packages there and installs only what differs. Exit status 1 says that a combination failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.installations import packages_of

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
#: Spark's line, the release of pyspark, and the delta-spark whose JARs are published for that line.
SPARKS = {"4.0": ("4.0.3", "4.4.0"), "4.1": ("4.1.2", "4.4.0"), "4.2": ("4.2.0", "4.4.0")}
TEST_PACKAGES = ("hypothesis", "psutil", "pytest", "pytest-timeout", "pytest-xdist", "setuptools>=77")
#: The engine against one prompt at a time, the UDF and its other surfaces, a job's first and second run, the command line.
CORE = (
    "tests/encoder/test_exactness.py::test_every_architecture_equals_one_prompt_at_a_time",
    "tests/encoder/test_exactness.py::test_batch_size_and_order_do_not_change_vectors",
    "tests/spark/test_udf.py",
    "tests/delta/test_job.py::test_a_first_run_embeds_a_second_does_nothing_and_four_changed_rows_compute_four",
    "tests/delta/test_stream.py::test_appends_updates_and_deletes_are_followed_and_own_commits_start_nothing",
    "tests/search/test_search.py",
    "tests/cli/test_cli.py",
    "tests/integrations/test_iceberg.py",  # runs with Spark 4.1 alone; a skip with the others
)
SHOWN = ("torch", "transformers", "numpy", "pandas", "pyarrow")
MINUTES = 40  # that one combination may take
SHOWN_LINES = 80  # of what pytest printed last, where a test failed


def find_python(line: str) -> Path | None:
    """An interpreter of a minor version: on the PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = [Path(folder, f"python{line}") for folder in os.get_exec_path()]
    for path in [*on_path, *sorted(pyenv.glob(f"versions/{line}.*/bin/python"), reverse=True)]:
        if path.is_file() and version_of(path) == line:
            return path
    return None


def version_of(python: Path) -> str | None:
    """The minor version of an interpreter, or None where it does not run: pyenv leaves commands that say so."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def make_environment(python: Path, folder: Path) -> Path:
    """A virtual environment with the package, its dependencies and what its tests need; returns its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inner = folder / "bin" / "python"
    base = ROOT / ".venv" / "bin" / "python"
    if base.is_file() and version_of(base) == version_of(python):
        packages, site = map(packages_of, (base, inner))
        (site / "zz-base.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n", encoding="utf-8")  # behind its own packages
    install(inner, "-e", f"{ROOT}[demo]", *TEST_PACKAGES)
    return inner


def install(python: Path, *packages: str) -> None:
    """Install into an environment, without a second copy of gigabytes in pip's cache."""
    pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--use-pep517", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)


def say(words: str) -> None:
    """A line on what is under way, apart from the table."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def ask(python: Path, code: str) -> str:
    """What a line of code prints in another interpreter."""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def run_tests(python: Path, temporary: Path, log: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests, printing into a file; returns whether they passed and pytest's last line."""
    # Warnings of third-party releases that the lock does not name are not ours to fail on.
    command = [python, "-m", "pytest", "-v", "-W", "default", "-p", "no:cacheprovider", f"--basetemp={temporary}", *tests]
    settings = {**os.environ, "PYSPARK_PYTHON": str(python), "HF_HUB_OFFLINE": "1"}
    settings.pop("SPARK_HOME", None)  # another Spark than the environment's
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=settings, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=MINUTES * 60
            )
        except subprocess.TimeoutExpired:
            return False, f"not done in {MINUTES} minutes, see {log}"
    printed = log.read_text(encoding="utf-8")
    lines = [line for line in printed.splitlines() if re.search(r"\b(passed|failed|error)", line)]
    said = lines[-1].strip("= ") if lines else f"pytest ended with status {done.returncode}"
    if done.returncode == 0:
        return True, said
    # Who reads this may have no access to the file.
    say("\n".join((printed.rpartition("= FAILURES =")[2] or printed).splitlines()[-SHOWN_LINES:]))
    return False, f"{said}, see {log}"


def try_spark(python: Path, folder: Path, line: str) -> tuple[bool, list[str]]:
    """Install one Spark and run the core; returns whether it passed, and the row's cells behind Python's version."""
    pyspark, delta = SPARKS[line]
    install(python, f"pyspark=={pyspark}", f"delta-spark=={delta}")
    versions = ask(python, f"from importlib.metadata import version; print(*map(version, {('pyspark', 'delta-spark', *SHOWN)!r}))").split()
    started = time.perf_counter()
    log = Path(tempfile.gettempdir(), f"metaeol-matrix-{versions[0]}-{folder.name.rpartition('-')[2]}.log")
    passed, said = run_tests(python, folder / "pytest", log, CORE)
    return passed, [*versions, f"{'passed' if passed else 'FAILED'}: {said} ({time.perf_counter() - started:.0f} s in all)"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all combinations that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=",".join(PYTHONS), help="minor versions with commas between")
    parser.add_argument("--spark", default=",".join(SPARKS), help="lines of Spark with commas between")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    options = parser.parse_args(arguments)
    sparks = options.spark.split(",")
    unknown = [line for line in sparks if line not in SPARKS]
    if unknown:
        parser.error(f"unknown lines of Spark {', '.join(unknown)}; known: {', '.join(SPARKS)}")
    table = Table("Python", "pyspark", "delta-spark", *SHOWN, "outcome")
    failed = False
    for line in options.python.split(","):
        for passed, row in try_python(line, sparks, keep=options.keep):
            failed |= not passed
            table.add_row(*row)
    Console(width=200, force_terminal=False).print(table)
    return int(failed)


def try_python(line: str, sparks: Sequence[str], *, keep: bool) -> list[tuple[bool, list[str]]]:
    """Rows of the table for one Python."""
    python = find_python(line)
    if python is None:
        return [(True, [line, *[""] * (2 + len(SHOWN)), f"skipped: no python{line} with venv on this machine"])]
    folder = Path(tempfile.mkdtemp(prefix=f"metaeol-matrix-{line}-"))
    try:
        say(f"Python {line} ({python}): installing into {folder} ...")
        inner = make_environment(python, folder / "env")
        exact = ask(inner, "import platform; print(platform.python_version())")
        rows = []
        for spark in sparks:
            say(f"Python {line}, Spark {spark} ...")
            passed, cells = try_spark(inner, folder, spark)
            rows.append((passed, [exact, *cells]))
        return rows
    except subprocess.CalledProcessError as error:
        return [(False, [line, *[""] * (2 + len(SHOWN)), f"FAILED: {' '.join(map(str, error.cmd))[:200]} ended with {error.returncode}"])]
    finally:
        if not keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
