"""Specs for tests that load no model, and for those that load one of their own."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec


def without_files(spec: EmbeddingSpec) -> ResolvedSpec:
    """A resolved spec whose model is nowhere, of two layers and 32 dimensions."""
    n_templates = len(TemplateSet.from_spec(spec).templates)
    return ResolvedSpec(spec, spec.model, (), spec.fingerprint(), (2,), 2, 32, n_templates, 32, has_manifest=False)


def with_own_model(spec: EmbeddingSpec, folder: Path) -> EmbeddingSpec:
    """Make a spec whose model no worker has: a copy in `folder` with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(spec.model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"] * (1 + int.from_bytes(os.urandom(2), "big") / 2**18)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return replace(spec, model=str(folder))
