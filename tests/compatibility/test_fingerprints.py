"""Spec fingerprints of an earlier version hold: a table that it embedded is not embedded anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.spec import EmbeddingSpec

ROOT = Path(__file__).resolve().parents[2]
#: Made with commit 2b891ae: the specs that shipped, and twenty drawn at random, half of them with the content that a resolved one carries.
#: Specs that came later were added as they came.
RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded" / "fingerprints.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("recorded", [entry for entry in RECORDED if "file" in entry], ids=lambda entry: entry["file"])
def test_specs_that_ship_keep_their_fingerprint(recorded: dict[str, Any], model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = EmbeddingSpec.load(recorded["file"])
    if recorded.get("resolved"):
        spec = resolve_local(spec).spec
    assert spec.fingerprint() == recorded["fingerprint"]


@pytest.mark.parametrize("recorded", [entry for entry in RECORDED if "settings" in entry], ids=lambda entry: entry["fingerprint"])
def test_any_settings_keep_their_fingerprint(recorded: dict[str, Any]) -> None:
    spec = EmbeddingSpec.from_mapping(recorded["settings"])
    assert dataclasses.replace(spec, **recorded.get("content", {})).fingerprint() == recorded["fingerprint"]


def test_every_spec_that_ships_is_recorded() -> None:
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf" / "specs").glob("*.yaml") if ".templates." not in path.name}
    assert shipped <= {entry.get("file") for entry in RECORDED}
