"""The failure budget: how many rows may have no embedding, and when a run is stopped before its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metaeol_udf.errors import BudgetError

LIKELY_FROM_TEXTS = 1_000  # fewer are no sample
LIKELY_FACTOR = 2.0


@dataclass(frozen=True)
class FailureBudget:
    """`runtime.max_failed_fraction`.

    Attributes:
        max_fraction: Of the selected rows that may have no embedding.
    """

    max_fraction: float

    def is_exceeded(self, rows_failed: int, rows_selected: int) -> bool:
        """Whether a whole run is over the budget; NULL and blank texts count."""
        return rows_failed > self.max_fraction * rows_selected

    def check_endless(self, rows_failed: int, rows_selected: int) -> None:
        """Stop a stream that has no end of its own, once at least 1,000 rows are a fair sample.

        Raises:
            BudgetError: It is over the budget.
        """
        if rows_selected >= LIKELY_FROM_TEXTS and self.is_exceeded(rows_failed, rows_selected):
            raise BudgetError(
                f"{rows_failed:,} of the {rows_selected:,} rows of this stream so far have no embedding, more than "
                f"runtime.max_failed_fraction={self.max_fraction} allows; all others are published"
            )

    def check_early(self, failures: Mapping[str, int], n_tried: int, rows_selected: int) -> None:
        """Stop a run that has waves left, once it is certain or likely that it ends over the budget.

        Certain: more texts failed than rows may. Likely: of at least 1,000 texts that were tried, more than twice the allowed
        fraction failed; waves are drawn by hash, so what was tried is a fair sample. NULL and blank texts do not count here:
        they cost no computation, so stopping would save none.

        Args:
            failures: Texts that the model failed on so far, by reason.
            n_tried: Texts that went through the model so far.
            rows_selected: Rows of the run.

        Raises:
            BudgetError: It is; the message gives the reasons.
        """
        n_failed = sum(failures.values())
        certain = n_failed > self.max_fraction * rows_selected
        likely = n_tried >= LIKELY_FROM_TEXTS and n_failed > LIKELY_FACTOR * self.max_fraction * n_tried
        if not (certain or likely):
            return
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(failures.items(), key=lambda item: -item[1]))
        raise BudgetError(
            f"stopped early: {n_failed:,} of the {n_tried:,} texts tried so far failed ({reasons}), and "
            f"runtime.max_failed_fraction={self.max_fraction} of {rows_selected:,} rows {'cannot' if certain else 'will hardly'} be kept. "
            "Nothing was published; the vectors computed so far are journalled, and the next run goes on from them"
        )
