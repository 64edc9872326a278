"""The file of post-processing beside a spec: read, and held against the spec that uses it. Imports neither torch nor Spark."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.errors import ConfigError, one_line
from metaeol_udf.files import replace_file
from metaeol_udf.formatting import shorten
from metaeol_udf.spec import EmbeddingSpec

METHODS = ("mean", "standardize", "remove_top", "whiten")  # fitted on texts
UNEMBEDDING = "unembedding"  # read off the model's head, without a text


def load_postprocess(spec: EmbeddingSpec) -> PostProcessing | None:
    """Load what a spec's `postprocess` names: from its content where the spec is resolved, else from the file.

    Raises:
        ConfigError: The file is missing, damaged or of another kind.
    """
    if spec.postprocess is None:
        return None
    content = read_content(spec) if spec.postprocess_content is None else spec.postprocess_content
    try:
        return PostProcessing.from_bytes(base64.b64decode(content, validate=True), f"embedding.postprocess {spec.postprocess!r}")
    except binascii.Error:
        raise ConfigError("the spec's postprocess_content is not base64") from None


def read_content(spec: EmbeddingSpec) -> str:
    """Read the file that `postprocess` names, as base64: how it travels to workers.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return base64.b64encode(Path(str(spec.postprocess)).read_bytes()).decode()
    except (OSError, ValueError) as error:  # the second of a name that no file can have
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        shown = shorten(str(spec.postprocess), 300)
        raise ConfigError(f"embedding.postprocess: cannot read {shown!r} ({why}); `metaeol fit` makes it") from None


def save_postprocess(post: PostProcessing, method: str, out: Path) -> dict[str, Any]:
    """Write a file of post-processing, whole or not at all; gives what was written, for people.

    Raises:
        EnvironmentFault: The file cannot be written.
    """
    replace_file(out, post.to_bytes())
    return {"method": method, "file": str(out), "hidden_size": post.hidden_size, "dim": post.dim, "setting": f"embedding.postprocess={out}"}


def check_postprocess(post: PostProcessing, hidden_size: int, made_with: dict[str, str]) -> list[str]:
    """See that it was fitted on the vectors that it will be given.

    Args:
        post: To be used.
        hidden_size: Of the model.
        made_with: As `PostProcessing.fitted_for`, of the spec that uses it.

    Returns:
        Warnings, for people: what differs and may be meant.

    Raises:
        ConfigError: It was fitted on vectors of another length, template set or layer.
    """
    if post.hidden_size != hidden_size:
        raise ConfigError(f"embedding.postprocess was fitted on vectors of length {post.hidden_size}, but the model's have {hidden_size}")
    fitted = post.fitted_for or {}
    for name in ("templates", "layer"):
        if fitted.get(name, made_with[name]) != made_with[name]:
            theirs = f" ({shorten(str(fitted[name]), 80)})" if name == "layer" else ""
            raise ConfigError(
                f"embedding.postprocess was fitted for another embedding.{name}{theirs}: leave embedding.{name} to embedding.spec "
                "if that names the file, or fit it again with `metaeol fit`"
            )
    if fitted.get("model_hash", made_with.get("model_hash")) != made_with.get("model_hash"):
        return ["embedding.postprocess was fitted on other model files: `metaeol fit` makes it anew for these"]
    return []
