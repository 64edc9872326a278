"""The embedding as a stage of a Spark ML pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWriter, MLWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError, did_you_mean
from metaeol_udf.spark.cluster.connect import connect_session
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.columns import quoted
from metaeol_udf.spark.udf import VECTOR_TYPE, check_schema, with_embeddings
from metaeol_udf.spec import SETTINGS, EmbeddingSpec

_OWN = ("inputCol", "outputCol", "outputType", "device")
_DEFAULTS = {name: value for name, value in EmbeddingSpec(model="any").settings().items() if name != "model"}


def _checked_setting(name: str, value: Any) -> Any:
    """The converter of a setting's parameter: refuses what no spec takes, and keeps lists, which JSON knows."""
    EmbeddingSpec.from_mapping({"model": "any", name: value}, where="MetaEOLEmbedder")
    return list(value) if isinstance(value, tuple) else value


def _checked_output_type(value: Any) -> str:
    if value not in ("array", "vector"):
        raise ConfigError(f"MetaEOLEmbedder.outputType must be one of array, vector, found {value!r}")
    return str(value)


def _setting(name: str, doc: str) -> Param[Any]:
    return Param(Params._dummy(), name, doc, typeConverter=partial(_checked_setting, name))


class MetaEOLEmbedder(Transformer, HasInputCol, HasOutputCol, DefaultParamsReadable["MetaEOLEmbedder"], MLWritable):
    """Embeds a text column; adds `outputCol` and `<outputCol>_error`, a string that is NULL where all is well.

    ``MetaEOLEmbedder(inputCol="text", outputCol="features", outputType="vector", model="models/smollm2-135m-instruct", layer=-1)``.
    Every setting of `EmbeddingSpec` is a parameter under the name that it has in YAML. `outputType` is `array` (``array<float>``)
    or `vector`, Spark ML's dense vectors of doubles, which its estimators take; either is NULL where a text has no embedding.

    A saved stage holds what its names stood for: the content of the template set and of the post-processing, and the digest of
    the model's files. Loaded anywhere, it needs the same model files, at the same place or at that of `setModel`, and no other file.
    """

    model = _setting("model", "folder of a checkpoint, or a hub id")
    revision = _setting("revision", "commit of a hub id")
    templates = _setting("templates", "name of a built-in template set, or path of a YAML file")
    layer = _setting("layer", "index into the hidden states, or a fraction of the depth, or a list of these")
    dtype = _setting("dtype", "auto, float32, bfloat16 or float16")
    quantization = _setting("quantization", "int8 or int4: bits of the weights of linear layers; fp8: of weights and activations")
    postprocess = _setting("postprocess", "path of a safetensors file with fitted post-processing")
    normalize = _setting("normalize", "scale every vector to length 1")
    truncate_dim = _setting("truncate_dim", "leading dimensions to keep")
    values = _setting("values", "float32, int8 or binary")
    per_template = _setting("per_template", "keep the templates' vectors side by side")
    max_tokens = _setting("max_tokens", "tokens kept of a text")
    long_texts = _setting("long_texts", "trim or mean: what becomes of a text with more tokens")
    passage = _setting("passage", "tokens, overlap and by: how mean splits a text")
    device: Param[str] = Param(Params._dummy(), "device", "auto, cpu, cuda or cuda:N", typeConverter=TypeConverters.toString)
    outputType: Param[str] = Param(Params._dummy(), "outputType", "array or vector", typeConverter=_checked_output_type)
    pinned: Param[dict[str, Any]] = Param(
        Params._dummy(), "pinned", "what the settings' names stood for when the stage was saved", typeConverter=TypeConverters.identity
    )

    @keyword_only
    def __init__(
        self,
        *,
        inputCol: str = "text",
        outputCol: str = "embedding",
        outputType: str = "array",
        device: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__()
        self._setDefault(inputCol="text", outputCol="embedding", outputType="array", device="auto", **_DEFAULTS)
        self.setParams(**self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only

    @classmethod
    def from_spec(cls, spec: EmbeddingSpec, **parameters: Any) -> MetaEOLEmbedder:
        """The stage for a spec, such as `EmbeddingSpec.load` reads from a job's YAML.

        Args:
            spec: What an embedding is. The content that a resolved spec carries is kept.
            parameters: `inputCol`, `outputCol`, `outputType` and `device`.
        """
        settings = {name: value for name, value in spec.settings().items() if value != _DEFAULTS.get(name)}
        stage = cls(**parameters, **settings)
        if spec.is_resolved:
            stage._set(pinned=_pinned(spec))
        return stage

    def setParams(self, **parameters: Any) -> MetaEOLEmbedder:
        """Set any parameters by name.

        Raises:
            ConfigError: One is unknown or out of range.
        """
        known = (*_OWN, *SETTINGS)
        for name in parameters:
            if name not in known:
                raise ConfigError(f"MetaEOLEmbedder has no parameter {name!r}; {did_you_mean(name, known)}")
        return self._set(**parameters)

    def setInputCol(self, value: str) -> MetaEOLEmbedder:
        """Name the column of texts."""
        return self._set(inputCol=value)

    def setOutputCol(self, value: str) -> MetaEOLEmbedder:
        """Name the new column."""
        return self._set(outputCol=value)

    def setOutputType(self, value: str) -> MetaEOLEmbedder:
        """Say `array` or `vector`."""
        return self._set(outputType=value)

    def setDevice(self, value: str) -> MetaEOLEmbedder:
        """Say `auto`, `cpu`, `cuda` or `cuda:N`."""
        return self._set(device=value)

    def getOutputType(self) -> str:
        """Tell the output type: `array` or `vector`."""
        return self.getOrDefault(self.outputType)

    def getDevice(self) -> str:
        """Tell the device."""
        return self.getOrDefault(self.device)

    def setModel(self, value: str) -> MetaEOLEmbedder:
        """Name the model's place; for a stage that was loaded, one that holds the same files."""
        return self._set(model=value)

    def getModel(self) -> str:
        """Tell the model's place."""
        found: str = self.getOrDefault(self.model)
        return found

    def setRevision(self, value: str | None) -> MetaEOLEmbedder:
        """Name the commit of a hub id."""
        return self._set(revision=value)

    def getRevision(self) -> str | None:
        """Tell the commit of a hub id."""
        found: str | None = self.getOrDefault(self.revision)
        return found

    def setTemplates(self, value: str) -> MetaEOLEmbedder:
        """Name a built-in template set, or the path of a YAML file."""
        return self._set(templates=value)

    def getTemplates(self) -> str:
        """Tell the name or path of the template set."""
        found: str = self.getOrDefault(self.templates)
        return found

    def setLayer(self, value: int | float | Sequence[int | float]) -> MetaEOLEmbedder:
        """Say the hidden state that is read, or a list of them to average."""
        return self._set(layer=value)

    def getLayer(self) -> int | float | list[int | float]:
        """Tell the hidden state that is read, or a list of them."""
        found: int | float | list[int | float] = self.getOrDefault(self.layer)
        return found

    def setDtype(self, value: str) -> MetaEOLEmbedder:
        """Say `auto`, `float32`, `bfloat16` or `float16`."""
        return self._set(dtype=value)

    def getDtype(self) -> str:
        """Tell the type of weights and activations."""
        found: str = self.getOrDefault(self.dtype)
        return found

    def setQuantization(self, value: str | None) -> MetaEOLEmbedder:
        """Say `int8`, `int4` or `fp8`, or None for weights as they are."""
        return self._set(quantization=value)

    def getQuantization(self) -> str | None:
        """Tell how weights are kept."""
        found: str | None = self.getOrDefault(self.quantization)
        return found

    def setPostprocess(self, value: str | None) -> MetaEOLEmbedder:
        """Name a safetensors file with fitted post-processing."""
        return self._set(postprocess=value)

    def getPostprocess(self) -> str | None:
        """Tell the file of post-processing."""
        found: str | None = self.getOrDefault(self.postprocess)
        return found

    def setNormalize(self, value: bool) -> MetaEOLEmbedder:
        """Say whether every vector has length 1."""
        return self._set(normalize=value)

    def getNormalize(self) -> bool:
        """Tell whether every vector has length 1."""
        found: bool = self.getOrDefault(self.normalize)
        return found

    def setTruncateDim(self, value: int | None) -> MetaEOLEmbedder:
        """Say how many leading dimensions are kept, or None for all."""
        return self._set(truncate_dim=value)

    def getTruncateDim(self) -> int | None:
        """Tell how many leading dimensions are kept."""
        found: int | None = self.getOrDefault(self.truncate_dim)
        return found

    def setValues(self, value: str) -> MetaEOLEmbedder:
        """Say `float32`, `int8` or `binary`."""
        return self._set(values=value)

    def getValues(self) -> str:
        """Tell what numbers a vector holds."""
        found: str = self.getOrDefault(self.values)
        return found

    def setPerTemplate(self, value: bool) -> MetaEOLEmbedder:
        """Say whether the templates' vectors stand side by side."""
        return self._set(per_template=value)

    def getPerTemplate(self) -> bool:
        """Tell whether the templates' vectors stand side by side."""
        found: bool = self.getOrDefault(self.per_template)
        return found

    def setMaxTokens(self, value: int) -> MetaEOLEmbedder:
        """Say how many tokens are kept of a text."""
        return self._set(max_tokens=value)

    def getMaxTokens(self) -> int:
        """Tell how many tokens are kept of a text."""
        found: int = self.getOrDefault(self.max_tokens)
        return found

    def setLongTexts(self, value: str) -> MetaEOLEmbedder:
        """Say `trim` or `mean`."""
        return self._set(long_texts=value)

    def getLongTexts(self) -> str:
        """Tell what becomes of a text with more tokens."""
        found: str = self.getOrDefault(self.long_texts)
        return found

    def setPassage(self, value: Mapping[str, Any]) -> MetaEOLEmbedder:
        """Say `tokens`, `overlap` and `by`: how long texts are split."""
        return self._set(passage=dict(value))

    def getPassage(self) -> dict[str, Any]:
        """Tell how long texts are split."""
        found: dict[str, Any] = self.getOrDefault(self.passage)
        return found

    def embedding_spec(self) -> EmbeddingSpec:
        """The spec that the parameters give, as they are written: no file is read.

        Raises:
            ConfigError: `model` was not set, or settings do not go together.
        """
        given = {name: self.getOrDefault(name) for name in SETTINGS if self.isDefined(name)}
        return EmbeddingSpec.from_mapping(given, where="MetaEOLEmbedder")

    def resolved_spec(self) -> EmbeddingSpec:
        """Give the spec with the content of all that it names: as it was saved, else as it is today.

        Raises:
            ConfigError: The spec names something that does not exist.
            ModelFilesError: The model's files are not whole, or not those that the stage was saved with.
        """
        return self._resolve().spec

    def _resolve(self) -> ResolvedSpec:
        saved = self.getOrDefault(self.pinned) if self.isDefined(self.pinned) else {}
        resolved = resolve(_with_content(self.embedding_spec(), saved))
        if saved and resolved.spec.model_hash != saved["model_hash"]:
            raise ModelFilesError(
                f"MetaEOLEmbedder.model {resolved.spec.model!r} holds other files than the model that this stage was saved with: put those "
                "there, or make a new stage for the other model"
            )
        return resolved

    def transformSchema(self, schema: StructType) -> StructType:
        """The schema after this stage.

        Raises:
            InputError: The input column is missing or holds no strings, or an output column exists already.
        """
        output = self.getOutputCol()
        check_schema(schema, self.getInputCol(), output)
        kind = VectorUDT() if self.getOrDefault(self.outputType) == "vector" else VECTOR_TYPE
        return StructType([*schema.fields, StructField(output, kind), StructField(f"{output}_error", StringType())])

    def write(self) -> DefaultParamsWriter:
        """What saves the stage; see the class for what is saved."""
        return _PinningWriter(self)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        text, output = self.getInputCol(), self.getOutputCol()
        check_schema(dataset.schema, text, output)  # before the model's files are read
        embedded = with_embeddings(dataset, self._resolve(), text, output, device=self.getOrDefault(self.device))
        if self.getOrDefault(self.outputType) == "array":
            return embedded
        array = F.col(quoted(output))
        return embedded.withColumn(output, F.when(array.isNotNull(), array_to_vector(array)))


class _PinningWriter(DefaultParamsWriter):
    """Saves a stage with what its names stand for, so that it gives the same vectors where they stand for something else."""

    def __init__(self, stage: MetaEOLEmbedder) -> None:
        super().__init__(stage)
        self._stage = stage

    def saveImpl(self, path: str) -> None:
        values = {param.name: value for param, value in self._stage._paramMap.items()}
        values["pinned"] = _pinned(self._stage.resolved_spec())
        DefaultParamsWriter.saveMetadata(self._stage, path, self.sparkSession, paramMap=values)

    def _handleOverwrite(self, path: str) -> None:
        if connect_session() is not None:
            raise EnvironmentFault(
                f"a stage by itself cannot overwrite {path!r} over Spark Connect: save a Pipeline with it, or to a new folder"
            )
        super()._handleOverwrite(path)


def _pinned(spec: EmbeddingSpec) -> dict[str, Any]:
    """A resolved spec's content, each with the name that it belongs to."""
    return {
        "model_hash": spec.model_hash,
        "templates": [spec.templates, spec.templates_json],
        "postprocess": [spec.postprocess, spec.postprocess_content],
    }


def _with_content(spec: EmbeddingSpec, saved: Mapping[str, Any]) -> EmbeddingSpec:
    """Give a spec the content that was saved for it, where it still names the same thing."""
    content: dict[str, Any] = {}
    for name, field in (("templates", "templates_json"), ("postprocess", "postprocess_content")):
        named, held = saved.get(name, (None, None))
        if held is not None and named == getattr(spec, name):
            content[field] = held
    return dataclasses.replace(spec, **content)
