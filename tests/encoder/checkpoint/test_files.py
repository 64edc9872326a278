from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metaeol_udf.encoder.checkpoint.files import check_weights
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, content_hash, verify_folder, write_manifest
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError, ModelFilesError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model folder of its own for a test that damages it."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture
def listed(folder: Path) -> Path:
    """The same with a manifest."""
    write_manifest(folder, source="a test", dtype="float32")
    return folder


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


def shard(folder: Path) -> list[str]:
    """Declare two shards, of which the second is not there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {"a.weight": names[0], "b.weight": names[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return names


def test_resolving_pins_templates_and_content_and_reads_the_shape(folder: Path) -> None:
    resolved = resolve_local(EmbeddingSpec(model=str(folder), layer=1))
    assert resolved.spec.is_resolved
    assert resolved.spec.templates_json == TemplateSet.load("metaeol").to_json()
    assert (resolved.n_layers, resolved.hidden_size, resolved.layers, resolved.has_manifest) == (2, 32, (1,), False)
    assert (resolved.n_templates, resolved.vector_length) == (8, 32)
    assert resolved.place == str(folder.resolve())
    assert resolved.fingerprint == resolved.spec.fingerprint()
    assert {file.name for file in resolved.files} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_resolved_spec_is_not_resolved_to_other_model_files(folder: Path) -> None:
    spec = resolve_local(EmbeddingSpec(model=str(folder))).spec
    assert resolve_local(spec).spec == spec
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelFilesError, match="holds other files than those that the spec was resolved with"):
        resolve_local(spec)


def test_a_manifest_and_another_place_leave_the_fingerprint_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = resolve_local(EmbeddingSpec(model=str(folder)))
    write_manifest(folder, source="a test", dtype="float32")
    moved = folder.rename(tmp_path / "elsewhere")
    after = resolve_local(EmbeddingSpec(model=str(moved)))
    assert after.has_manifest
    assert after.fingerprint == before.fingerprint


def test_other_weights_have_another_fingerprint_and_a_chat_template_has_not(folder: Path) -> None:
    before = content_hash(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert content_hash(folder) == before
    flip_a_byte(folder / "model.safetensors")
    assert content_hash(folder) != before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_file_is_named(listed: Path, name: str) -> None:
    (listed / name).unlink()
    with pytest.raises(ModelFilesError, match=name) as caught:
        resolve_local(EmbeddingSpec(model=str(listed)))
    assert caught.value.exit_code == 5


def test_an_altered_file_is_named_with_both_digests(listed: Path) -> None:
    expected = json.loads((listed / MANIFEST).read_text())["files"]["model.safetensors"]["sha256"]
    flip_a_byte(listed / "model.safetensors")
    with pytest.raises(ModelFilesError, match=r"model\.safetensors was altered") as caught:
        resolve_local(EmbeddingSpec(model=str(listed)))
    assert expected in str(caught.value)
    with pytest.raises(ModelFilesError):
        verify_folder(listed)


def test_a_file_that_the_manifest_does_not_list_is_refused(listed: Path) -> None:
    (listed / "modeling_other.py").write_text("print('run me')\n")
    with pytest.raises(ModelFilesError, match=r"modeling_other\.py is not in"):
        verify_folder(listed)


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_weights_are_refused_with_and_without_a_manifest(folder: Path, kept: int, has_manifest: bool) -> None:
    if has_manifest:
        write_manifest(folder, source="a test", dtype="float32")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelFilesError, match=r"model\.safetensors.*truncated"):
        resolve_local(EmbeddingSpec(model=str(folder)))


def test_a_garbled_header_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8:40] = b"#" * 32
    weights.write_bytes(content)
    with pytest.raises(ModelFilesError, match=r"damaged safetensors header"):
        resolve_local(EmbeddingSpec(model=str(folder)))


def test_a_missing_shard_is_named(folder: Path) -> None:
    _, second = shard(folder)
    with pytest.raises(ModelFilesError, match=second):
        resolve_local(EmbeddingSpec(model=str(folder)))


def test_pickled_weights_are_refused_with_the_flag_that_converts_them(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFilesError, match=r"pytorch_model\.bin.*--allow-pickle"):
        resolve_local(EmbeddingSpec(model=str(folder)))


def test_a_damaged_manifest_is_refused(listed: Path) -> None:
    (listed / MANIFEST).write_text("{")
    with pytest.raises(ModelFilesError, match="damaged"):
        verify_folder(listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no/such-model"}, "no such folder"),
        ({"model": "sentence-transformers/all-MiniLM-L6-v2"}, "publishes encoders"),
        ({"layer": 3}, "the model has 2 layers"),
        ({"layer": -4}, "the model has 2 layers"),
        ({"templates": "metaeoll"}, "did you mean 'metaeol'"),
        ({"truncate_dim": 33}, "have 32 dimensions"),
    ],
)
def test_what_the_model_does_not_have_is_a_configuration_error(folder: Path, change: dict[str, object], message: str) -> None:
    settings = {"model": str(folder), **change}
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_local(EmbeddingSpec.from_mapping(settings))
    assert caught.value.exit_code == 2


def test_a_hub_id_is_found_in_the_local_cache_at_its_revision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "hub" / "models--maker--tiny"
    shutil.copytree(folder, repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision in (None, "abc123"):
        assert resolve_local(EmbeddingSpec(model="maker/tiny", revision=revision)).place == "maker/tiny"
        assert model_folder("maker/tiny", revision).as_posix().endswith("snapshots/abc123")
    with pytest.raises(ConfigError, match="at revision 'def456'"):
        resolve_local(EmbeddingSpec(model="maker/tiny", revision="def456"))


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", DEEP),
        (MANIFEST, DEEP),
        (MANIFEST, '{"format_version": 1, "files": {"config.json": {"sha256": "a", "bytes": "x"}}}'),
        (MANIFEST, '{"format_version": 1, "files": {"config.json": {"sha256": 5, "bytes": 5}}}'),
        (MANIFEST, '{"format_version": 1, "files": {"%s": {"sha256": "a", "bytes": 5}}}' % ("x" * 5000)),
        (MANIFEST, '{"format_version": 1, "files": {"../config.json": {"sha256": "a", "bytes": 5}}}'),
        (MANIFEST, '{"format_version": 1, "files": []}'),
    ],
    ids=["deep config", "deep manifest", "bytes", "sha256", "long name", "name that leaves the folder", "list"],
)
def test_a_file_that_others_wrote_is_refused_by_name(tiny_model_dir: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (folder / name).write_text(content)
    with pytest.raises(ModelFilesError, match=rf"{name}.* is damaged") as caught:
        resolve_local(EmbeddingSpec(model=str(folder)))
    assert len(str(caught.value)) < 600


def test_a_deep_header_of_weights_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    with pytest.raises(ModelFilesError, match="damaged safetensors header"):
        check_weights(folder)
