"""What is installed is pinned by hash: requirement files, the Makefile's installs, the image; and the SBOM that is made of them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
IMAGE = (ROOT / "examples" / "kubernetes" / "Dockerfile").read_text(encoding="utf-8")


def entries(path: Path) -> list[str]:
    """The requirements of a file, each on one line."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", "").splitlines()


def pins(name: str) -> dict[str, set[str]]:
    """The versions of each package that a requirement file names."""
    found: dict[str, set[str]] = {}
    for entry in entries(ROOT / "requirements" / name):
        wanted = Requirement(entry.partition("--hash")[0])
        found.setdefault(wanted.name, set()).update(each.version for each in wanted.specifier)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_requirement_has_one_version_and_its_hashes(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")  # what it is for: `make lock` keeps the first line
    assert "://" not in path.read_text(encoding="utf-8")  # an index is for the reader's own settings
    for entry in entries(path):
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ *]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry), entry


def test_the_makefile_installs_nothing_that_is_not_pinned() -> None:
    installs = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    named = {file for line in installs for file in re.findall(r"-r (requirements/\S+\.txt)", line)}
    assert {line.removeprefix("--quiet --disable-pip-version-check ") for line in installs if "-r requirements/" not in line} == {
        "--no-deps --no-build-isolation --editable ."
    }
    in_image = {"requirements/image.txt", "requirements/package.txt"}  # the image installs the one, the SBOM describes the other
    assert named | in_image == {path.relative_to(ROOT).as_posix() for path in FILES}


def test_the_package_is_pinned_whole_and_as_it_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(line).name for line in [*project["dependencies"], *project["optional-dependencies"]["spark"]]}
    package, tested, image = pins("package.txt"), pins("dev.txt"), pins("image.txt")
    assert needed <= package.keys()
    assert {name: versions for name, versions in package.items() if not versions <= tested[name]} == {}
    assert needed - image.keys() == {"pyspark"}  # which Spark's image has
    assert image["delta-spark"] == tested["delta-spark"]


def test_the_image_takes_only_what_its_recipe_names_by_digest() -> None:
    (delta,), (spark,) = pins("dev.txt")["delta-spark"], pins("dev.txt")["pyspark"]
    assert re.search(r"^FROM (.*)$", IMAGE, re.MULTILINE)[1].startswith(f"apache/spark:{spark}-")  # type: ignore[index]
    recipe = IMAGE.replace("\\\n", " ")
    steps = [line for line in recipe.splitlines() if not line.startswith("#")]
    downloads = [line for line in steps if line.startswith("ADD ")]
    assert len(downloads) == 2
    assert not any("://" in line for line in steps)  # a repository is for the reader's own settings
    assert all(re.match(r"ADD --chmod=644 --checksum=sha256:[0-9a-f]{64} +\$\{MAVEN_REPOSITORY\}/io/delta/", line) for line in downloads)
    assert all(f"-{delta}.jar /opt/spark/jars/" in line for line in downloads)
    installs = re.findall(r"pip install ([^&]*)", recipe.split("FROM")[1])
    assert [set(line.split()) & {"--no-deps", "--require-hashes", "--no-index"} for line in installs] == [
        {"--no-deps", "--require-hashes"},
        {"--no-deps", "--no-index"},
    ]


def test_the_sbom_lists_the_package_with_its_hashes(tmp_path: Path) -> None:
    if not (ROOT / "build" / "sbom-tools" / "requirements.stamp").is_file():
        pytest.skip("`make sbom` has not been run here, and what it needs is not on this machine")
    file = tmp_path / "new" / "sbom.json"
    made = subprocess.run(["make", "sbom", f"SBOM={file}"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    sbom = json.loads(file.read_text(encoding="utf-8"))
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "metaeol-udf")
    assert {part["name"]: part["version"] for part in sbom["components"]} == {name: max(each) for name, each in pins("package.txt").items()}
    for part in sbom["components"]:
        assert part["purl"].startswith("pkg:pypi/")
        assert all(reference["hashes"] for reference in part["externalReferences"])
        assert {reference["url"].split("/")[2] for reference in part["externalReferences"]} == {"pypi.org"}  # of no index of this machine
