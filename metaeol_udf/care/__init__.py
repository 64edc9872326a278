"""The care of a table with vectors: its state, its vectors dropped, its earlier vectors back. No model is loaded."""

from metaeol_udf.care.drop import DropItem, run_drop
from metaeol_udf.care.rollback import run_rollback
from metaeol_udf.care.status import run_status

__all__ = ["DropItem", "run_drop", "run_rollback", "run_status"]
