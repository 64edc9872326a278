"""Faults 26, 34 and 35: disks that are full, model files that are damaged or of a kind that is not allowed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench

from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, write_manifest
from metaeol_udf.errors import EnvironmentFault, ModelFilesError

TEXTS = {n: f"text number {n}" for n in range(40)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine lets the tests mount no file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_fault_26_a_full_disk_is_exit_status_5_and_costs_nothing_once_there_is_space(bench: Bench, small_disk: Path) -> None:
    bench.folder = small_disk
    report = {"report": None}
    bench.write(list(TEXTS.items()))
    bench.run(source={"where": "id < 10"}, runtime=report)
    version = bench.versions()
    before = bench.rows()
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    with pytest.raises(EnvironmentFault, match="the disk is full") as caught:
        bench.run(runtime=report)
    assert caught.value.exit_code == 5
    assert bench.versions() == version
    assert bench.rows() == before
    ballast.unlink()
    bench.run(runtime=report)
    bench.check_all_right(TEXTS)


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    write_manifest(folder, source="a test", dtype="float32")
    return folder


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _garble(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 0xFF
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"model\.safetensors.*truncated"),
        (_garble, r"model\.safetensors was altered.*[0-9a-f]{12}"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json"),
    ],
)
def test_fault_34_damaged_model_files_are_named_and_nothing_is_written(bench: Bench, model: Path, damage: Any, message: str) -> None:
    bench.write(list(TEXTS.items()))
    damage(model)
    with pytest.raises(ModelFilesError, match=message) as caught:
        bench.run(embedding={"model": str(model)})
    assert caught.value.exit_code == 5
    assert bench.versions() == 1


def test_fault_34_a_file_altered_after_the_manifest_is_given_with_both_digests(bench: Bench, model: Path) -> None:
    listed = json.loads((model / MANIFEST).read_text())["files"]["model.safetensors"]["sha256"]
    bench.write(list(TEXTS.items()))
    _garble(model)
    with pytest.raises(ModelFilesError) as caught:
        bench.run(embedding={"model": str(model)})
    assert listed in str(caught.value)


def test_fault_35_a_pickled_model_is_refused_with_the_flag(bench: Bench, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    bench.write(list(TEXTS.items()))
    with pytest.raises(ModelFilesError, match="--allow-pickle") as caught:
        bench.run(embedding={"model": str(folder)})
    assert caught.value.exit_code == 5


def test_fault_35_code_that_comes_with_a_model_is_never_run(bench: Bench, tiny_model_dir: Path, tmp_path: Path) -> None:
    from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model

    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "code"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "never_heard_of"
    config["auto_map"] = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\n")
    with pytest.raises(ModelFilesError, match="--trust-remote-code"):
        prepare_model(str(folder), tmp_path / "made", PrepareOptions())
    bench.write([(1, "text")])
    with pytest.raises(Exception, match=r"never_heard_of|code|model"):
        bench.run(embedding={"model": str(folder)})
    assert not (tmp_path / "it_ran").exists()
