"""Resolved specs for tests that load no model."""

from __future__ import annotations

from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec


def without_files(spec: EmbeddingSpec) -> ResolvedSpec:
    """A resolved spec whose model is nowhere, of two layers and 32 dimensions."""
    n_templates = len(TemplateSet.from_spec(spec).templates)
    return ResolvedSpec(spec, spec.model, (), spec.fingerprint(), (2,), 2, 32, n_templates, 32, has_manifest=False)
