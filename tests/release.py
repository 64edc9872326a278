"""Builds a release into `build/release` and tries its wheel in an environment of its own: `make release`.

    python -m tests.release [--untried]

The folder holds the wheel, the sdist, the list of what the package installs (`sbom.json`, from `make sbom`) and `SHA256SUMS`. The wheel is
installed with its own extras `spark` and `demo`, at the versions of `requirements/package.txt` where that file names them (torch makes the
environment 6 GB large; it is removed at the end). There the command line starts, the demo model of this checkout embeds two texts, and the
job embeds a small Delta table. Exit status 1 says that something failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.matrix import ROOT, install, say

#: What a build reads; the rest of a checkout is as good as absent.
SOURCES = ("metaeol_udf", "pyproject.toml", "README.md", "LICENSE")
RELEASE = ROOT / "build" / "release"
MODEL = ROOT / "models" / "smollm2-135m-instruct"
_BUILD = """
import os, sys
from setuptools import build_meta
_, folder, out = sys.argv  # which setuptools changes
os.chdir(folder)
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""
_TRIAL = """
import sys
from metaeol_udf import MetaEOLEncoder
from metaeol_udf.delta import run_embed
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.config import SparkConfig
_, model, table = sys.argv
vectors = MetaEOLEncoder.from_pretrained(model, device="cpu", dtype="float32").encode(["one text", "another one"])
assert vectors.shape == (2, 576), vectors.shape
spark = get_session(SparkConfig(master="local[2]"))
spark.createDataFrame([(1, "one text"), (2, "another one")], "id long, text string").write.format("delta").save(table)
embedding, runtime = {"model": model, "dtype": "float32"}, {"device": "cpu"}
report = run_embed({"source": {"table": table, "key": "id"}, "embedding": embedding, "runtime": runtime}, spark)
assert report["rows_embedded"] == 2, report
"""


def build(folder: Path, out: Path) -> None:
    """Build a wheel and an sdist from a folder, in an interpreter of its own."""
    subprocess.run([sys.executable, "-c", _BUILD, str(folder), str(out)], capture_output=True, text=True, check=True, timeout=120)


def copy_sources(folder: Path) -> None:
    """Copy what a build reads, so that the checkout stays as it is and nothing old gets into the wheel."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` as `sha256sum --check` reads it."""
    paths = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install a wheel with its own extras and embed with it, apart from the checkout."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    inner = folder / "env" / "bin" / "python"
    pinned = re.findall(
        r"^\S+==\S+(?: ;[^\\\n]*)?", (ROOT / "requirements" / "package.txt").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    (folder / "constraints.txt").write_text("\n".join(pinned), encoding="utf-8")
    install(inner, "--constraint", str(folder / "constraints.txt"), f"{wheel}[spark,demo]")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SPARK", "PYSPARK"))}
    for command in ([folder / "env" / "bin" / "metaeol", "--version"], [inner, "-c", _TRIAL, MODEL, folder / "table"]):
        subprocess.run(list(map(str, command)), cwd=folder, env=settings, check=True, timeout=900)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the release and try it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--untried", action="store_true", help="build only: install and try nothing")
    options = parser.parse_args(arguments)
    shutil.rmtree(RELEASE, ignore_errors=True)
    RELEASE.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="metaeol-release-"))
    try:
        (folder / "sources").mkdir()
        copy_sources(folder / "sources")
        build(folder / "sources", RELEASE)
        shutil.copy(ROOT / "build" / "sbom.json", RELEASE)
        write_checksums(RELEASE)
        if not options.untried:
            say(f"installing the wheel into {folder} ...")
            try_wheel(next(RELEASE.glob("*.whl")), folder)
    except subprocess.CalledProcessError as error:
        say(f"failed: {' '.join(map(str, error.cmd))[:200]}\n{error.stderr or ''}")
        return 1
    finally:
        shutil.rmtree(folder)
    say(f"{RELEASE.relative_to(ROOT)}: {', '.join(sorted(path.name for path in RELEASE.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
