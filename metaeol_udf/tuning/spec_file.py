"""Writes what tuning chose: a spec file, its template set where that was thinned out, and post-processing, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.files import replace_file
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec


def write_spec(
    path: Path, spec: EmbeddingSpec, *, layers: Sequence[int], templates: TemplateSet | None, post: PostProcessing | None,
    remarks: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Write a spec that `EmbeddingSpec.load` reads; each file is replaced whole, the spec last.

    Args:
        path: The spec file, `NAME.yaml`. `NAME.templates.yaml` and `NAME.safetensors` come to stand beside it.
        spec: Gives all settings but those below.
        layers: Output layers.
        templates: A set to write; None keeps the one that the spec names.
        post: Post-processing; None for none.
        remarks: Comment lines at the top.

    Returns:
        The files written.
    """
    settings = spec.settings()
    defaults = EmbeddingSpec(model=spec.model).settings()
    settings |= {"layer": layers[0] if len(layers) == 1 else list(layers), "postprocess": None}
    files: list[tuple[Path, bytes]] = []
    if templates is not None:
        settings["templates"] = f"{path.stem}.templates.yaml"
        files.append((path.with_name(settings["templates"]), templates.to_yaml().encode()))
    if post is not None:
        settings["postprocess"] = f"{path.stem}.safetensors"
        files.append((path.with_name(settings["postprocess"]), post.to_bytes()))
    kept = {name: value for name, value in settings.items() if value != defaults[name] or name in ("model", "templates", "layer", "dtype")}
    comment = "".join(f"# {line}\n" for line in remarks)
    files.append((path, (comment + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)).encode()))
    for each, content in files:
        replace_file(each, content)
    return [each for each, _ in files]
