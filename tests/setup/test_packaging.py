"""The wheel and the sdist, built as a release is, and the wheel installed where nothing else of ours is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import metaeol_udf
from tests.release import build, copy_sources, write_checksums

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel and one sdist, built from a copy so that the checkout stays as it is."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    copy_sources(copy)
    build(copy, out)
    return out


@pytest.fixture(scope="module")
def wheel(packages: Path) -> Path:
    """The wheel."""
    (path,) = packages.glob("*.whl")
    return path


def metadata_of(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def package_files() -> set[str]:
    """What git has in the package: all of it belongs into the wheel."""
    listed = subprocess.run(["git", "ls-files", "metaeol_udf"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return set(listed.stdout.split())


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"metaeol_udf-{metaeol_udf.__version__}.dist-info"
    package = {name for name in names if not name.startswith(f"{info}/")}
    assert package_files() - package == set()
    assert {name for name in package if not name.startswith("metaeol_udf/")} == set()
    assert {"metaeol_udf/py.typed", "metaeol_udf/prompts/sets/metaeol.yaml"} <= package
    assert f"{info}/licenses/LICENSE" in names
    assert wheel.name == f"metaeol_udf-{metaeol_udf.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 2_000_000  # no weights, no figures


def test_the_sdist_builds_the_same_wheel(packages: Path, wheel: Path, tmp_path: Path) -> None:
    (path,) = packages.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    out = tmp_path / "out"
    out.mkdir()
    build(folder, out)
    (again,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        skipped = f"metaeol_udf-{metaeol_udf.__version__}.dist-info/RECORD"
        contents = [{name: archive.read(name) for name in archive.namelist() if name != skipped} for archive in (one, other)]
    assert contents[0] == contents[1]
    assert not (folder / "tests").exists()


def test_checksums_are_those_of_the_files(packages: Path, tmp_path: Path) -> None:
    for path in packages.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_checksums(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 2


def test_the_metadata_says_what_the_package_needs(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Name"] == "metaeol-udf"
    assert metadata["Version"] == metaeol_udf.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    needed = metadata.get_all("Requires-Dist") or []
    unconditional = {line.split(">")[0] for line in needed if "extra ==" not in line}
    assert {"torch", "transformers", "pandas", "pyarrow", "typer"} <= {name.split("<")[0] for name in unconditional}
    assert not any("spark" in name for name in unconditional)  # a cluster brings its own
    assert "spark" in (metadata.get_all("Provides-Extra") or [])


def test_an_installed_wheel_works_apart_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    python = environment / "bin" / "python"
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}  # which may lead to the checkout
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, wheel], env=settings, check=True, timeout=120)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # The tests' own packages, behind the environment's; as a plain path, so that no checkout joins them.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")

    def run(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=settings, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import metaeol_udf; print(metaeol_udf.__file__)").strip()
    assert Path(where).is_relative_to(environment)
    assert run(environment / "bin" / "metaeol", "--version").startswith(f"metaeol-udf {metaeol_udf.__version__}")
    assert "metaeol-fast" in run(environment / "bin" / "metaeol", "templates", "list")
