"""The user's condition over the source's columns: an expression, and nothing that reaches beyond the row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.errors import InputError

# These call any class or quote a row; or they tell of the session and not of the row.
_REFUSED = frozenset({
    "java_method", "reflect", "try_reflect", "raise_error", "assert_true", "current_user", "user", "session_user", "current_catalog",
    "current_database", "current_schema", "version",
})  # fmt: skip


def filtered(source: DataFrame, condition: str | None, setting: str = "source.where") -> DataFrame:
    """The rows that a user's SQL condition, which messages call by its setting, keeps; None keeps all.

    Raises:
        InputError: It cannot be parsed, names what is not there, is not a condition, reaches beyond the row, or says now this, now
            that of the same row.
    """
    if condition is None:
        return source
    try:
        if "${" in condition:
            raise InputError(
                f"{setting} has ${{...}}, in whose place Spark would put a variable of the driver's environment: "
                "a condition may use the row's own columns only"
            )
        _check(source.sparkSession, condition, setting)
        kept = source.where(F.expr(condition))
    except (ParseException, AnalysisException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{setting} {condition!r} is no condition over the source's columns: {lines[0]}") from None
    _check_deterministic(kept, condition, setting)
    return kept


def columns_in(spark: SparkSession, condition: str) -> set[str]:
    """Names, in lower case, of the columns that a condition mentions."""
    nodes = _nodes(_parse(spark, condition))
    return {node.nameParts().last().lower() for node in nodes if node.getClass().getSimpleName() == "UnresolvedAttribute"}


def _check(spark: SparkSession, condition: str, setting: str) -> None:
    jvm: Any = spark._jvm
    known = jvm.org.apache.spark.sql.catalyst.analysis.FunctionRegistry.builtin()
    identifier = jvm.org.apache.spark.sql.catalyst.FunctionIdentifier
    for node in _nodes(_parse(spark, condition)):
        kind = node.getClass().getSimpleName()
        if kind in ("ScalarSubquery", "Exists", "ListQuery", "InSubquery", "UnresolvedStar"):
            raise InputError(f"{setting} {condition!r} has a query inside: it may use the row's own columns only")
        if kind == "UnresolvedFunction":
            name = node.nameParts().mkString(".")
            if name.lower() in _REFUSED or not known.functionExists(identifier(name)):
                raise InputError(
                    f"{setting} {condition!r} calls {name}: it may call Spark's own functions only, and none that runs other code"
                )


def _check_deterministic(kept: DataFrame, condition: str, setting: str) -> None:
    """Check that a condition says the same of a row each time: selection, MERGE and proof each ask it anew."""
    frame: Any = kept
    expressions = frame._jdf.queryExecution().analyzed().expressions()  # of the filter, the topmost step
    if not all(expressions.apply(i).deterministic() for i in range(expressions.size())):
        raise InputError(
            f"{setting} {condition!r} is not deterministic: it may say something else of the same row each time; "
            "use the row's own columns, for example pmod(hash(id), 10) = 0"
        )


def _parse(spark: SparkSession, condition: str) -> Any:
    session: Any = spark._jsparkSession
    return session.sessionState().sqlParser().parseExpression(condition)


def _nodes(expression: Any) -> Iterator[Any]:
    yield expression
    children = expression.children()
    for i in range(children.size()):
        yield from _nodes(children.apply(i))
