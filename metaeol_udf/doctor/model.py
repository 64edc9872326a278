"""The model and its templates: all that can be known without loading weights."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pyspark.sql import SparkSession

from metaeol_udf.doctor.plan import Plan
from metaeol_udf.encoder.checkpoint.architectures import DECODER_TYPES, RUN_WHOLE, check_quantization, text_model_type
from metaeol_udf.encoder.checkpoint.files import check_weights, model_shape, read_json
from metaeol_udf.encoder.checkpoint.location import is_local, local_path
from metaeol_udf.encoder.checkpoint.manifest import read_manifest, verify_folder
from metaeol_udf.encoder.checkpoint.resolve import check_vectors
from metaeol_udf.errors import ConfigError, MetaEOLError, ModelFilesError
from metaeol_udf.formatting import shorten
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spark.cluster.finding import Finding, ok, refused, warning, wrong_environment, wrong_setting
from metaeol_udf.spark.worker.model_staging import driver_model_folder
from metaeol_udf.spec import EmbeddingSpec, output_layers

_PREPARED = "embedding.model=<a folder that `metaeol model prepare SRC DEST` made>"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_model(spec: EmbeddingSpec, spark: SparkSession | None = None) -> Path | Finding:
    """Find the folder of a model, or say why there is none."""
    if spark is None and not is_local(spec.model):
        found = "no Spark, which alone reaches this model, so it was not looked at"
        return warning("model", found, "fix the java or session finding first")
    try:
        return driver_model_folder(spec.model, spec.revision, lambda: cast("SparkSession", spark))
    except MetaEOLError as error:
        return refused("model", error, _PREPARED)


def check_model(plan: Plan) -> Iterator[Finding]:
    """Check everything about the model's folder, where there is one."""
    spec, folder = plan.config.embedding, plan.model
    if isinstance(folder, Finding):
        yield folder
        return
    yield check_files(folder)
    yield check_code(folder)
    yield check_runner(spec, folder)
    yield check_pinned(spec, folder)
    yield check_layer(spec, folder)
    yield check_positions(spec, folder)


def check_files(folder: Path) -> Finding:
    """Tokenizer and safetensors weights are there, whole, and what the manifest says."""
    try:
        model_shape(folder)
        check_weights(folder)
        verify_folder(folder)
    except MetaEOLError as error:
        return refused("model files", error, _PREPARED)
    return ok("model files", "tokenizer and weights are whole")


def check_code(folder: Path) -> Finding:
    """An architecture that transformers does not have comes with Python code of its own, which no job runs."""
    try:
        config = read_json(folder / "config.json")
    except ModelFilesError:
        return ok("model code", "config.json cannot be read: see model files")
    if "auto_map" not in config or importlib.util.find_spec("transformers") is None:
        return ok("model code", "the model comes without code of its own")
    from transformers import CONFIG_MAPPING

    kind = shorten(str(config.get("model_type")), 80)
    if kind in CONFIG_MAPPING:
        return ok("model code", f"transformers has the architecture {kind!r}: the model's own code is not run")
    found = f"architecture {kind!r} needs Python code that comes with the model, and no job runs such code"
    return wrong_environment("model code", found, "embedding.model=<a model whose architecture transformers has>")


def check_runner(spec: EmbeddingSpec, folder: Path) -> Finding:
    """The model's architecture says which runner is likely to take it; a worker proves it when it loads the model."""
    name = "model runner"
    try:
        check_quantization(spec, folder)
        kind = text_model_type(folder)
    except ConfigError as error:
        return refused(name, error, "embedding.quantization=null")
    except ModelFilesError:
        return ok(name, "config.json cannot be read: see model files")
    if kind in DECODER_TYPES:
        return ok(name, f"{kind} runs on our own decoder, the fastest runner; the worker proves it when it loads the model")
    if kind in RUN_WHOLE:
        found = f"{kind} runs on whole prompts: exact, and several times slower than models that share prefixes"
        return warning(name, found, "embedding.model=<a model of docs/models.md with another runner>")
    return ok(name, f"{kind} shares prefixes through transformers' own layers; the worker proves it when it loads the model")


def check_pinned(spec: EmbeddingSpec, folder: Path) -> Finding:
    """What a name stands for may change between two runs, or between two executors."""
    if is_local(spec.model) and not local_path(spec.model).is_dir() and not _COMMIT.fullmatch(spec.revision or ""):
        return warning("model version", f"hub id {spec.model} is not pinned to a commit", f"embedding.revision={folder.name}")
    try:
        has_manifest = read_manifest(folder) is not None
    except MetaEOLError as error:
        return refused("model version", error, "embedding.model=<the folder, made anew by `metaeol model prepare SRC DEST --force`>")
    if not has_manifest:
        found = "no manifest stands beside the model's files: nobody would notice an altered one"
        return warning("model version", found, _PREPARED)
    return ok("model version", "a manifest of digests pins the model's files")


def check_layer(spec: EmbeddingSpec, folder: Path) -> Finding:
    """The output layers, post-processing and `truncate_dim` go with the model."""
    setting = "embedding.layer=-1"
    try:
        n_layers, hidden_size = model_shape(folder)
        layers = output_layers(spec.layer, n_layers)
        most = "embedding.truncate_dim=null" if spec.truncate_dim is not None else "embedding.postprocess=null"
        setting = f"embedding.truncate_dim={hidden_size}" if spec.postprocess is None else most
        dim = check_vectors(spec, n_layers, hidden_size)
    except ModelFilesError:
        return ok("layer", "the model's shape is unknown: see model files")
    except ConfigError as error:
        return refused("layer", error, setting)
    return ok("layer", f"hidden states {', '.join(map(str, layers))} of 0 to {n_layers}, vectors of {dim} numbers")


def check_templates(spec: EmbeddingSpec) -> Finding:
    """The template set can be read."""
    try:
        templates = TemplateSet.from_spec(spec)
    except MetaEOLError as error:
        return refused("templates", error, "embedding.templates=metaeol")
    return ok("templates", f"{templates.name}: {len(templates.templates)} prompt templates")


def check_positions(spec: EmbeddingSpec, folder: Path) -> Finding:
    """The longest text with the longest prompt around it fits the positions that the model knows."""
    try:
        positions = read_json(folder / "config.json").get("max_position_embeddings")
        templates = TemplateSet.from_spec(spec)
    except MetaEOLError:
        return ok("positions", "the model or the templates cannot be read: see their own findings")
    if not isinstance(positions, int):
        return ok("positions", "the model names no largest position")
    # No tokenizer makes more tokens than bytes; the exact count comes with the model.
    prompt = max(len(template.prompt.encode()) for template in templates.templates)
    if spec.max_tokens >= positions:
        found = f"embedding.max_tokens is {spec.max_tokens}, the model has {positions} positions"
        return wrong_setting("positions", found, f"embedding.max_tokens={max(1, positions - prompt)}")
    longer = "trimmed" if spec.splits_by is None else f"split into passages of {spec.splits_by.tokens}"
    return ok("positions", f"texts of {spec.max_tokens} tokens in {positions} positions; longer ones are {longer}")


def check_dtype(plan: Plan) -> Finding:
    """A dtype that the hardware does not multiply is emulated: same vectors, several times slower."""
    dtype, name = plan.config.embedding.dtype, "dtype"
    if dtype in ("auto", "float32") or not plan.is_local or plan.has_gpu is None:
        return ok(name, f"embedding.dtype is {dtype}" + ("" if plan.is_local else "; the executors' hardware decides its speed"))
    import torch

    if plan.wants_gpu:
        if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return warning(name, "this GPU emulates bfloat16", "embedding.dtype=float16")
        return ok(name, f"the GPU multiplies {dtype}")
    if dtype == "float16":
        return warning(name, "CPUs are slow in float16, and its range overflows in some models", "embedding.dtype=auto")
    if not torch.cpu._is_avx512_bf16_supported():
        return warning(name, "this CPU has no bfloat16 multiplication (AVX512-BF16) and emulates it", "embedding.dtype=float32")
    return ok(name, "this CPU multiplies bfloat16")
