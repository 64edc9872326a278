"""How the results of single commands look on a terminal, and in a pipe or a log."""

from metaeol_udf.cli.views.findings import show_finding, show_verdict
from metaeol_udf.cli.views.printing import Format, emit, emit_each, show_figures
from metaeol_udf.cli.views.prompts import show_template_check, show_template_sets, show_words
from metaeol_udf.cli.views.reports import (
    show_draft,
    show_drop,
    show_estimate,
    show_plan,
    show_report,
    show_rollback,
    show_run,
    show_settings,
    show_status,
)
from metaeol_udf.cli.views.rows import show_hit_lists, show_hits, show_pairs

__all__ = [
    "Format",
    "emit",
    "emit_each",
    "show_draft",
    "show_drop",
    "show_estimate",
    "show_figures",
    "show_finding",
    "show_hit_lists",
    "show_hits",
    "show_pairs",
    "show_plan",
    "show_report",
    "show_rollback",
    "show_run",
    "show_settings",
    "show_status",
    "show_template_check",
    "show_template_sets",
    "show_verdict",
    "show_words",
]
