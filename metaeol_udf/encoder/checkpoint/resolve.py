"""From a spec as a person wrote it to a resolved spec: once a command, on the driver, before anything runs.

Imports neither torch nor transformers, so that a Spark driver without them can refuse a bad job before it starts.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from metaeol_udf.encoder.checkpoint.architectures import check_quantization
from metaeol_udf.encoder.checkpoint.files import check_adapter, check_weights, model_shape
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import ModelFile, content_hash, deciding_files, read_manifest, verify_folder
from metaeol_udf.encoder.vectors.postprocess import check_postprocess, load_postprocess, read_content
from metaeol_udf.errors import ConfigError, ModelFilesError
from metaeol_udf.files import is_folder
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec, output_layers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedSpec:
    """Holds a spec with the content of all that it names, and the facts about its model that a run needs.

    Everything below a command takes this type: nothing looks for the model, the template set or the post-processing again.

    Attributes:
        spec: The settings, with `templates_json`, `postprocess_content` and `model_hash` set; `model` as the user wrote it.
        place: Where a worker looks for the model: an absolute path, a hub id, or a place that only Spark reaches.
        files: The files that decide a vector, with their digests.
        fingerprint: The spec's fingerprint.
        layers: Indices of the hidden states that are read, ascending.
        n_layers: Transformer layers of the model; there is one hidden state more.
        hidden_size: Length of one hidden state.
        n_templates: Prompt templates of the set.
        dim: Length of one template's vector, after post-processing and `truncate_dim`.
        has_manifest: Whether a manifest of digests stands beside the files.
    """

    spec: EmbeddingSpec
    place: str
    files: tuple[ModelFile, ...]
    fingerprint: str
    layers: tuple[int, ...]
    n_layers: int
    hidden_size: int
    n_templates: int
    dim: int
    has_manifest: bool

    @property
    def vector_length(self) -> int:
        """Count the numbers of one stored vector."""
        return self.dim * self.n_templates if self.spec.per_template else self.dim

    @property
    def made_with(self) -> dict[str, str]:
        """Say what a mean hidden state depends on; see `made_with`."""
        return made_with(self.spec, self.n_layers)


def resolve_local(spec: EmbeddingSpec) -> ResolvedSpec:
    """Resolve a spec whose model lies on this machine.

    Raises:
        ConfigError: Unknown model, template set or layer, or more dimensions asked for than there are.
        ModelFilesError: Files are missing, truncated, altered, of a kind that is not loaded, or not those of `spec.model_hash`.
    """
    folder = model_folder(spec.model, spec.revision)
    # A worker's working folder is another one, so a path must be absolute; a hub id means the same everywhere.
    is_path = is_folder(Path(spec.model))
    return resolve_in(folder, spec, str(Path(spec.model).resolve()) if is_path else spec.model)


def resolve_in(folder: Path, spec: EmbeddingSpec, place: str) -> ResolvedSpec:
    """Resolve a spec whose model lies in a folder of this machine.

    Checks all of a spec that can be checked without a model in memory. Reads every model file once to take its digest.

    `place` is the model's place as workers look for it. Raises what `resolve_local` does.
    """
    named = with_content(spec)
    check_adapter(folder)
    n_layers, hidden_size = model_shape(folder)
    layers = output_layers(spec.layer, n_layers)
    check_weights(folder)
    check_quantization(spec, folder)
    verify_folder(folder)
    found = content_hash(folder)
    check_model_hash(spec, found, "")
    pinned = dataclasses.replace(named, model_hash=found)
    return ResolvedSpec(
        spec=pinned,
        place=place,
        files=deciding_files(folder),
        fingerprint=pinned.fingerprint(),
        layers=layers,
        n_layers=n_layers,
        hidden_size=hidden_size,
        n_templates=len(TemplateSet.from_spec(pinned).templates),
        dim=check_vectors(pinned, n_layers, hidden_size),
        has_manifest=read_manifest(folder) is not None,
    )


def with_content(spec: EmbeddingSpec) -> EmbeddingSpec:
    """Put the content of the template set and of the post-processing into a spec, where it only names them.

    Raises:
        ConfigError: The template set or the post-processing's file cannot be read, or the spec makes several rows of a text.
    """
    check_one_vector(spec)
    content = spec.postprocess_content
    if content is None and spec.postprocess is not None:
        content = read_content(spec)
    return dataclasses.replace(spec, templates_json=TemplateSet.from_spec(spec).to_json(), postprocess_content=content)


def check_one_vector(spec: EmbeddingSpec) -> None:
    """Check that a spec gives each text one vector.

    Raises:
        ConfigError: It splits a long text into rows of their own.
    """
    if spec.makes_passages:
        raise ConfigError(
            "embedding.long_texts is passages, which makes several rows of a long text: only jobs over tables do that, into a target.table "
            "of their own (metaeol embed); for the same vectors of single texts set embedding.long_texts=trim"
        )


def check_model_hash(spec: EmbeddingSpec, found: str, where: str) -> None:
    """See that a spec which was resolved before still means the same model files; without `model_hash` any files will do.

    `found` is the digest of the files that are there; `where`, such as `" on the cluster"`, goes into the message of the error.
    """
    if spec.model_hash not in (None, found):
        raise ModelFilesError(f"embedding.model {spec.model!r} holds other files{where} than those that the spec was resolved with")


def check_vectors(spec: EmbeddingSpec, n_layers: int, hidden_size: int) -> int:
    """Check vectors: see that post-processing and `truncate_dim` go with a model's shape.

    Returns:
        Length of a vector, of one template.

    Raises:
        ConfigError: They do not.
    """
    post = load_postprocess(spec)
    if post is not None:
        for message in check_postprocess(post, hidden_size, made_with(spec, n_layers)):
            logger.warning("%s", message)
    dim = hidden_size if post is None else post.dim
    if spec.truncate_dim is not None and spec.truncate_dim > dim:
        of = "the model's hidden states have" if post is None else "post-processing gives"
        raise ConfigError(f"embedding.truncate_dim is {spec.truncate_dim}, but {of} {dim} dimensions")
    return spec.truncate_dim or dim


def made_with(spec: EmbeddingSpec, n_layers: int) -> dict[str, str]:
    """Name what a mean hidden state depends on, as `PostProcessing.fitted_for` keeps it."""
    layers = ",".join(map(str, output_layers(spec.layer, n_layers)))
    known = {"templates": TemplateSet.from_spec(spec).digest(), "layer": layers}
    return known if spec.model_hash is None else {**known, "model_hash": spec.model_hash}
