"""Search and near-duplicates over vectors, in Spark: exact, without an index and without a cross join."""

from metaeol_udf.search.duplicates import near_duplicates
from metaeol_udf.search.expected import FoundRow, check_queries
from metaeol_udf.search.open_job import Hit
from metaeol_udf.search.table import search_table
from metaeol_udf.search.table_duplicates import DuplicatePair, find_duplicates, write_duplicates
from metaeol_udf.search.vectors import search_vectors

__all__ = [
    "DuplicatePair",
    "FoundRow",
    "Hit",
    "check_queries",
    "find_duplicates",
    "near_duplicates",
    "search_table",
    "search_vectors",
    "write_duplicates",
]
