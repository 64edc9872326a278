"""Passages as a source: each row is a passage of a text, so that a run over them is a run like any other.

The key of a passage is its text's key with its number and its place in the text. A passage that moves is another row, whose vector is
found by its content. Rows are compared by content: no commit of a table says which passages of a text were changed.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from metaeol_udf.config import SourceConfig
from metaeol_udf.config.source import PASSAGE_KEY, PASSAGE_TEXT
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.sources.text import check_text_columns, one_row_a_key, text_of
from metaeol_udf.delta.tables.columns import check_source_columns
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.spark.columns import quoted
from metaeol_udf.spark.udf import passages_udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spec import Passage

_WHOLE, _FOUND, _NUMBER, _EACH = "metaeol_whole", "metaeol_found", "metaeol_number", "metaeol_each"


class PassageSource(Source):
    """The passages of a source's texts.

    Attributes:
        by: How long texts are split.
        request: What workers split with.
    """

    def __init__(self, config: SourceConfig, by: Passage, request: EncoderRequest) -> None:
        """Check the names; looks at nothing.

        Args:
            config: The settings of the source of the texts.
            by: How long texts are split.
            request: What workers split with.

        Raises:
            InputError: The name of the table or the path is not valid.
        """
        super().__init__(config)
        self.by, self.request = by, request

    @property
    def why_unversioned(self) -> str | None:
        """Why a run cannot look at new commits alone: it always is so."""
        return "embedding.long_texts is passages: the passages of all texts are compared by content"

    def read(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the passages of the texts that `source.where` selects: the key of passages, and PASSAGE_TEXT.

        Raises:
            InputError: The source is not there, cannot be read, or a column is not what the settings say.
        """
        return self.split(self.read_texts(spark, version))

    def read_texts(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the rows whose texts are split, as they are.

        Raises:
            InputError: As for `read`.
        """
        rows = self.read_whole(spark, version)
        check_source_columns(rows, self.config.key, self)
        check_text_columns(self.config, rows.schema, self)
        return filtered(rows, self.config.where)

    def read_again(self, spark: SparkSession, rows: DataFrame) -> DataFrame:
        """Read the passages as they are now, of the texts that some rows are of."""
        names = list(self.config.key)
        keys = rows.select(*map(quoted, names)).distinct()
        return self.split(self.read_texts(spark).join(keys, names, "left_semi"))

    def split(self, texts: DataFrame) -> DataFrame:
        """Split the texts of rows. A text that is NULL or blank has one passage, from 0 to 0, that holds it as it is."""
        key = [F.col(quoted(name)) for name in self.config.key]
        text = F.make_valid_utf8(text_of(self.config, texts.schema))
        whole = one_row_a_key(texts, self.config).select(*key, text.alias(_WHOLE))
        found = whole.withColumn(_FOUND, passages_udf(self.request, self.by)(F.col(_WHOLE)))
        parts = F.arrays_zip(*[F.col(_FOUND)[name].alias(name) for name in ("starts", "ends", "texts")])
        each = found.select(*key, _WHOLE, F.posexplode_outer(parts).alias(_NUMBER, _EACH))
        numbers = (F.col(_NUMBER), F.col(_EACH)["starts"], F.col(_EACH)["ends"])
        placed = [F.coalesce(number, F.lit(0)).alias(name) for name, number in zip(PASSAGE_KEY, numbers, strict=True)]
        return each.select(*key, *placed, F.coalesce(F.col(_EACH)["texts"], F.col(_WHOLE)).alias(PASSAGE_TEXT))


def key_of_passages(key: StructType) -> StructType:
    """Make the fields of the key of passages from those of their texts' key."""
    return StructType([*key.fields, *[StructField(name, IntegerType()) for name in PASSAGE_KEY]])
