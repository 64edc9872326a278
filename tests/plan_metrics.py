"""What Spark's own metrics say about a query."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession


def evaluated_rows(spark: SparkSession) -> int:
    """Rows that Python workers gave back in the last query, by Spark's own metrics."""
    store: Any = spark._jsparkSession.sharedState().statusStore()  # type: ignore[attr-defined]
    execution = store.executionsList().last()
    metrics = store.executionMetrics(execution.executionId())
    nodes = store.planGraph(execution.executionId()).allNodes()
    total = 0
    for i in range(nodes.size()):
        node = nodes.apply(i)
        if node.name() == "ArrowEvalPython":
            named = {node.metrics().apply(j).name(): node.metrics().apply(j) for j in range(node.metrics().size())}
            value = metrics.get(named["number of output rows"].accumulatorId())
            total += int(value.get().replace(",", "")) if value.isDefined() else 0
    return total
