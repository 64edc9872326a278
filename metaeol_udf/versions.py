"""The versions that matter, read from files: `metaeol --version` answers in a second and loads no torch and no JVM."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import metaeol_udf

_PACKAGES = ("pyspark", "delta-spark", "torch", "transformers", "pyarrow", "pandas")
_MISSING = "not installed"


def versions() -> dict[str, str]:
    """Name and version of each, `metaeol-udf` first; what is not there says so."""
    found = {"metaeol-udf": metaeol_udf.__version__, "Python": platform.python_version(), "Java": java_version() or "not found"}
    return found | {name: _torch() if name == "torch" else _installed(name) for name in _PACKAGES}


def java_version() -> str | None:
    """The Java that Spark would start: from the `release` file of its folder, else from the program itself. None where there is none."""
    program = find_java()
    if program is None:
        return None
    release = Path(os.path.realpath(program)).parents[1] / "release"
    if release.is_file():
        found = re.search(r'^JAVA_VERSION="([^"]+)"', release.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if found:
            return found.group(1)
    try:
        return ask_java(program)
    except (OSError, subprocess.SubprocessError):
        return None


def find_java() -> str | None:
    """The `java` that Spark would start: JAVA_HOME counts before the PATH."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else shutil.which("java")


def ask_java(program: str) -> str | None:
    """The version that a `java` gives itself, or None where it tells none.

    Raises:
        OSError: It cannot be started.
        subprocess.SubprocessError: It fails, or takes a minute.
    """
    shown = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    found = re.search(r'version "([^"]+)"', shown)
    return found.group(1) if found else None


def gpu_count(devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs that this machine shows; whether torch can use them, `metaeol doctor` says."""
    return sum(1 for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))


def has_cuda() -> bool:
    """Tell whether this machine has CUDA: it shows an NVIDIA GPU, and its torch was built for one. Imports nothing, unlike asking torch."""
    return gpu_count() > 0 and _cuda_build() is not None


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _MISSING


def _torch() -> str:
    """Torch's version, the CUDA it was built for, and the GPUs of the machine."""
    version = _installed("torch")
    if version == _MISSING:
        return version
    gpus = gpu_count()
    seen = f"{gpus} GPU{'' if gpus == 1 else 's'} seen" if gpus else "no GPU seen"
    return f"{version} ({_cuda_build() or 'built without CUDA'}, {seen})"


def _cuda_build() -> str | None:
    """As torch's own `version.py` says it, which is read and not run."""
    spec = find_spec("torch")  # finds the folder, imports nothing
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    if not file.is_file():
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return f"CUDA {found.group(1)}" if found else None
