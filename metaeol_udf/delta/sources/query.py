"""A query as a source: one SELECT or the name of a view. It is parsed before Spark sees it as a statement, and must always say the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.delta.tables.where_clause import check_errors, nodes_of
from metaeol_udf.errors import InputError

_SETTING = "source.query"
_VIEW = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+){0,2}")
_STATEMENTS = ("Command", "ParsedStatement")  # Spark's traits of what does something
_NO_QUERIES = {"InsertIntoStatement", "CompoundBody", "SingleStatement", "UnresolvedExecuteImmediate"}
#: Expressions whose value depends on the order in which rows come; in a window its order decides.
_BY_ORDER = {"First", "Last", "AnyValue", "CollectList", "CollectSet", "ListAgg", "MonotonicallyIncreasingID"}
_SORTED_BY = {"SortArray", "ArraySort"}
_CALLS_CODE = {"CallMethodViaReflection", "TryReflect"}
_IN_WINDOW = {"WindowExpression"}


def name_of_query(query: str) -> str:
    """Make a short name that tells one query from another, for messages and properties: the name of the view, or a digest."""
    words = _words(query)
    return words if _VIEW.fullmatch(words) else f"source.query (SHA-256 {hashlib.sha256(words.encode()).hexdigest()[:12]}…)"


def _words(query: str) -> str:
    """Take away what may stand around a statement."""
    return query.strip().rstrip(";").strip()


def read_query(spark: SparkSession, query: str) -> DataFrame:
    """Read the rows of a query.

    Raises:
        InputError: It is no single SELECT, names what is not there, runs other code, may say now this, now that of the same data, or
            would fail on a value and quote it.
    """
    words = _words(query)
    if "${" in words:
        raise InputError(f"{_SETTING} has ${{...}}, in whose place Spark would put a variable of the driver's environment")
    if _VIEW.fullmatch(words):
        words = "SELECT * FROM " + ".".join(f"`{part}`" for part in words.split("."))
    try:
        _check_statement(spark, words)
        rows = spark.sql(words)
    except (ParseException, AnalysisException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{_SETTING} cannot be read: {lines[0]}") from None
    except (PySparkException, Py4JJavaError) as error:
        raise InputError(f"{_SETTING} cannot be read ({type(error).__name__})") from None
    frame: Any = rows
    _check_plan(frame._jdf.queryExecution().analyzed(), above="")
    names = [name.casefold() for name in rows.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{_SETTING} gives two columns the name {twice[0]!r}: give one another name with AS")
    return rows


def _check_statement(spark: SparkSession, words: str) -> None:
    """Check that words are a query and do nothing, before anything runs them."""
    session: Any = spark._jsparkSession
    plan = session.sessionState().sqlParser().parsePlan(words)
    load = plan.getClass().getClassLoader().loadClass
    traits = [load(f"org.apache.spark.sql.catalyst.plans.logical.{name}") for name in _STATEMENTS]
    for node in nodes_of(plan):
        if _kind(node) in _NO_QUERIES or any(trait.isInstance(node) for trait in traits):
            raise InputError(f"{_SETTING} must be one SELECT or the name of a view, found a statement that does something else")


def _check_plan(plan: Any, above: str) -> None:
    """Check that a plan says the same each time, and runs nothing beside Spark's own functions and functions said to be deterministic."""
    kind = _kind(plan)
    if kind == "ScriptTransformation":
        raise InputError(f"{_SETTING} runs a script (TRANSFORM), which is refused")
    if kind == "Sample":
        raise InputError(f"{_SETTING} takes a sample, which is another one each time: use a condition such as pmod(hash(id), 10) = 0")
    if kind in ("LocalLimit", "Offset", "Tail") and _kind(plan.children().apply(0)) not in ("Sort", "Offset"):
        raise InputError(f"{_SETTING} has a LIMIT or OFFSET without an ORDER BY, which may choose other rows each time")
    for expression in _expressions(plan):
        _check_expression(expression, above="")
        if above != "View":  # the user of a view cannot change what it says
            check_errors(expression, _SETTING)
    if not above and not plan.deterministic():
        raise InputError(f"{_SETTING} is not deterministic: it may say something else each time, such as by rand() or uuid()")
    for i in range(plan.children().size()):
        _check_plan(plan.children().apply(i), "View" if "View" in (kind, above) else kind)


def _check_expression(expression: Any, above: str) -> None:
    kind = _kind(expression)
    if kind in _CALLS_CODE:
        raise InputError(f"{_SETTING} calls other code by reflection, which is refused")
    if kind in _BY_ORDER and above not in _SORTED_BY | _IN_WINDOW:
        raise InputError(
            f"{_SETTING} calls {expression.prettyName()}, whose value depends on the order in which rows come: sort it, for example "
            "sort_array(collect_list(text)), or use min or max"
        )
    inner = "" if kind == "AggregateExpression" else kind  # stands between a function and its aggregate
    for i in range(expression.children().size()):
        _check_expression(expression.children().apply(i), inner or above)
    if "Subquery" in kind or kind in ("Exists", "ListQuery"):
        _check_plan(expression.plan(), "Subquery")


def _expressions(plan: Any) -> Iterator[Any]:
    found = plan.expressions()
    for i in range(found.size()):
        yield found.apply(i)


def _kind(node: Any) -> str:
    name: str = node.getClass().getSimpleName()
    return name.rstrip("$")
