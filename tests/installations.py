"""Makes what tests run beside this checkout: a SPARK_HOME to write into, the package's wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"


def make_spark_home(folder: Path) -> Path:
    """Make a SPARK_HOME of links to pyspark: workers and executors write below it, which must not be the installation."""
    import pyspark

    folder.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        (folder / entry.name).symlink_to(entry)
    return folder


def build_wheel(folder: Path) -> Path:
    """Build the package's wheel into a folder."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (built,) = folder.glob("metaeol_udf-*.whl")
    return built


def packages_of(python: Path) -> Path:
    """Ask an interpreter for the folder of its packages."""
    asked = subprocess.run([python, "-c", PURELIB], check=True, text=True, capture_output=True, timeout=60)
    return Path(asked.stdout.strip())
