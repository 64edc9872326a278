"""The embedding as a stage of a Spark ML pipeline."""

from __future__ import annotations

from typing import Any

from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql.types import StringType, StructField, StructType

from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.spark.udf import VECTOR_TYPE, with_embeddings
from metaeol_udf.spec import SETTINGS, EmbeddingSpec


class MetaEOLEmbedder(Transformer, HasInputCol, HasOutputCol, DefaultParamsReadable["MetaEOLEmbedder"], DefaultParamsWritable):
    """Embeds a text column; adds `outputCol`, ``array<float>``, and `<outputCol>_error`, NULL where all is well.

    ``MetaEOLEmbedder(inputCol="text", outputCol="embedding", model="models/smollm2-135m-instruct", layer=-1)``. The
    settings of `EmbeddingSpec` are the parameter `spec`, a mapping, so that a saved stage reads back what was written.
    """

    spec: Param[dict[str, Any]] = Param(Params._dummy(), "spec", "settings of the embedding", typeConverter=TypeConverters.identity)
    device: Param[str] = Param(Params._dummy(), "device", "auto, cpu, cuda or cuda:N", typeConverter=TypeConverters.toString)

    @keyword_only
    def __init__(self, *, inputCol: str = "text", outputCol: str = "embedding", device: str = "auto", **settings: Any) -> None:
        super().__init__()
        del settings
        given: dict[str, Any] = dict(self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only
        own = {name: given.pop(name) for name in ("inputCol", "outputCol", "device") if name in given}
        self._setDefault(inputCol="text", outputCol="embedding", device="auto")
        self._set(**own)
        if given:
            self._set(spec=_checked(given))

    def embedding_spec(self) -> EmbeddingSpec:
        """The spec that the parameters give.

        Raises:
            ConfigError: `model` was not set, or a value is out of range.
        """
        return EmbeddingSpec.from_mapping(self.getOrDefault(self.spec) if self.isDefined(self.spec) else {}, where="MetaEOLEmbedder")

    def transformSchema(self, schema: StructType) -> StructType:
        """The schema after this stage.

        Raises:
            InputError: The input column is missing or holds no strings.
        """
        name = self.getInputCol()
        if name not in schema.names:
            raise InputError(f"column {name!r} is not in the DataFrame (columns: {', '.join(schema.names)})")
        if not isinstance(schema[name].dataType, StringType):
            raise InputError(f"column {name!r} must be a string, found {schema[name].dataType.simpleString()}")
        output = self.getOutputCol()
        return StructType([*schema.fields, StructField(output, VECTOR_TYPE), StructField(f"{output}_error", StringType())])

    def _transform(self, dataset: DataFrame) -> DataFrame:
        spec = self.embedding_spec()
        return with_embeddings(dataset, spec, self.getInputCol(), self.getOutputCol(), device=self.getOrDefault(self.device))


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise ConfigError(f"MetaEOLEmbedder has no setting {unknown[0]!r} (settings: inputCol, outputCol, device, {', '.join(SETTINGS)})")
    EmbeddingSpec.from_mapping(settings, where="MetaEOLEmbedder")
    return settings
