"""The user's condition over the source's columns: an expression, and nothing that reaches beyond the row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.errors import InputError
from metaeol_udf.spark.cluster.connect import is_connect

# These call any class or quote a row; or they tell of the session and not of the row.
_REFUSED = frozenset({
    "java_method", "reflect", "try_reflect", "raise_error", "assert_true", "current_user", "user", "session_user", "current_catalog",
    "current_database", "current_schema", "version",
})  # fmt: skip

# Of these functions an error quotes the text that they cannot read; Spark names them by their classes.
_QUOTING = frozenset({
    "ToNumber", "ToBinary", "UrlDecode", "ParseUrl", "ParseJson", "ValidateUTF8", "UnBase64", "StringToMap", "GetTimestamp",
    "ParseToDate", "ParseToTimestamp", "ToUnixTimestamp", "UnixTimestamp", "ToTime", "AesDecrypt",
    "XPathBoolean", "XPathShort", "XPathInt", "XPathLong", "XPathFloat", "XPathDouble", "XPathString", "XPathList",
})  # fmt: skip
# These tell the time, and so do the words that Spark reads as a day or a moment, in a literal or where it makes one of a string.
_CLOCKS = frozenset({"CurrentDate", "CurrentTimestamp", "CurrentTime", "Now", "LocalTimestamp"})
_CLOCK_WORDS = re.compile(r"""["']\s*(now|today|tomorrow|yesterday)\b""", re.IGNORECASE)
_HARMLESS = frozenset({"string", "binary"})  # what any text can be cast to


def filtered(source: DataFrame, condition: str | None, setting: str = "source.where") -> DataFrame:
    """The rows that a user's SQL condition, which messages call by its setting, keeps; None keeps all.

    Raises:
        InputError: It cannot be parsed, names what is not there, is not a condition, reaches beyond the row, says now this, now
            that of the same row, or would fail on a value and quote it.
    """
    if condition is None:
        return source
    if "${" in condition:
        raise InputError(
            f"{setting} has ${{...}}, in whose place Spark would put a variable of the driver's environment: "
            "a condition may use the row's own columns only"
        )
    if is_connect(source.sparkSession):
        raise InputError(
            f"{setting}: over Spark Connect no condition can be looked at before it runs, and one that fails would quote texts in Spark's "
            "log: leave it out, or run the job where the driver is"
        )
    try:
        _check(source.sparkSession, condition, setting)
        kept = source.where(F.expr(condition))
    except (ParseException, AnalysisException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{setting} {condition!r} is no condition over the source's columns: {lines[0]}") from None
    expressions = _expressions(kept)
    if not all(expression.deterministic() for expression in expressions):
        raise InputError(  # selection, MERGE and proof each ask a condition anew
            f"{setting} {condition!r} is not deterministic: it may say something else of the same row each time; "
            "use the row's own columns, for example pmod(hash(id), 10) = 0"
        )
    for expression in expressions:
        check_errors(expression, f"{setting} {condition!r}")
    return kept


def asks_time(source: DataFrame, condition: str | None) -> bool:
    """Tell whether a condition that `filtered` takes says now this, now that of the same row because time goes by."""
    if condition is None or is_connect(source.sparkSession):  # over which `filtered` takes none
        return False
    if _CLOCK_WORDS.search(condition):
        return True
    expressions = _expressions(source.where(F.expr(condition)))
    return any(node.getClass().getSimpleName() in _CLOCKS for expression in expressions for node in nodes_of(expression))


def columns_of(source: DataFrame, condition: str | None) -> set[str]:
    """Names of the source's columns that a condition reads which `filtered` takes."""
    if condition is None or is_connect(source.sparkSession):  # over which `filtered` takes none
        return set()
    read = [expression.references().toSeq() for expression in _expressions(source.where(F.expr(condition)))]
    return {columns.apply(i).name() for columns in read for i in range(columns.size())}


def columns_in(spark: SparkSession, condition: str) -> set[str]:
    """Names, in lower case, of the columns that a condition mentions; over Spark Connect, which shows no parsed form, of all its words."""
    if is_connect(spark):
        return {word.lower() for word in re.findall(r"\w+", condition)}
    nodes = nodes_of(_parse(spark, condition))
    return {node.nameParts().last().lower() for node in nodes if node.getClass().getSimpleName() == "UnresolvedAttribute"}


def _check(spark: SparkSession, condition: str, setting: str) -> None:
    jvm: Any = spark._jvm
    known = jvm.org.apache.spark.sql.catalyst.analysis.FunctionRegistry.builtin()
    identifier = jvm.org.apache.spark.sql.catalyst.FunctionIdentifier
    for node in nodes_of(_parse(spark, condition)):
        kind = node.getClass().getSimpleName()
        if kind in ("ScalarSubquery", "Exists", "ListQuery", "InSubquery", "UnresolvedStar"):
            raise InputError(f"{setting} {condition!r} has a query inside: it may use the row's own columns only")
        if kind == "UnresolvedFunction":
            name = node.nameParts().mkString(".")
            if name.lower() in _REFUSED or not known.functionExists(identifier(name)):
                raise InputError(
                    f"{setting} {condition!r} calls {name}: it may call Spark's own functions only, and none that runs other code"
                )


def _expressions(kept: DataFrame) -> list[Any]:
    """Return the analysed expressions of the filter, which is the topmost step."""
    frame: Any = kept
    found = frame._jdf.queryExecution().analyzed().expressions()
    return [found.apply(i) for i in range(found.size())]


def check_errors(expression: Any, said: str) -> None:
    """Check that no value ends the run: Spark would quote it in its log and its event log. `said` begins the message.

    Raises:
        InputError: The expression fails on a text that it cannot read.
    """
    kind = expression.getClass().getSimpleName()
    if kind.startswith("Try"):
        return
    children = [expression.children().apply(i) for i in range(expression.children().size())]
    if any(_is_text(child) for child in children):
        what = None
        if kind == "Cast":
            target = expression.dataType().simpleString()
            if expression.evalMode().toString() == "ANSI" and target not in _HARMLESS:
                what = f"casts a text to {target}", f"try_cast(... AS {target})"
        elif kind in _QUOTING and _raises(expression):
            name = expression.prettyName()
            what = f"calls {name}", f"try_{name} or another function that gives NULL"
        if what is not None:
            raise InputError(f"{said} {what[0]}, which fails at the first text that is none and quotes it in Spark's log: use {what[1]}")
    for child in children:
        check_errors(child, said)


def _is_text(expression: Any) -> bool:
    try:
        kind = expression.dataType().typeName()
    except Py4JError:  # a part of an expression that has no value, such as the order of a window
        return False
    return not expression.foldable() and kind.startswith(("string", "varchar", "char"))


def _raises(expression: Any) -> bool:
    """Tell whether a function raises where it cannot read its argument; those that do not choose always do."""
    try:
        return bool(expression.failOnError())
    except Py4JError:
        return True


def _parse(spark: SparkSession, condition: str) -> Any:
    session: Any = spark._jsparkSession
    return session.sessionState().sqlParser().parseExpression(condition)


def nodes_of(tree: Any) -> Iterator[Any]:
    """Walk over an expression or a plan of Spark, from the top down."""
    yield tree
    children = tree.children()
    for i in range(children.size()):
        yield from nodes_of(children.apply(i))
