"""Prints what runs, plans, estimates and drafts found, what the settings are, and what a table's state is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from metaeol_udf.cli.views.printing import say, show_figures
from metaeol_udf.files import write_yaml
from metaeol_udf.formatting import counted, format_value
from metaeol_udf.terminal import show_columns

if TYPE_CHECKING:
    from metaeol_udf.care import DropItem
    from metaeol_udf.config import EffectiveSetting
    from metaeol_udf.starter import Draft

#: Keys of a run report in the order of its summary, with the words for people.
SUMMARY = (
    ("rows_selected", "rows selected"),
    ("rows_embedded", "rows embedded"),
    ("rows_failed", "rows failed"),
    ("failures", "why"),
    ("rows_without_vector", "rows without a vector"),
    ("rows_skipped", "rows up to date"),
    ("rows_deleted", "rows deleted"),
    ("rows_orphaned", "rows whose key left the source"),
    ("rows_trimmed", "rows trimmed"),
    ("unique_texts", "unique texts"),
    ("tokens_computed", "tokens computed"),
    ("tokens_saved", "tokens saved"),
    ("runner", "runner"),
    ("texts_per_second", "texts per second"),
    ("device_busy", "device busy"),
    ("seconds", "seconds"),
    ("quality", "quality"),
    ("model_loads", "model loads"),
    ("executors", "executors"),
    ("fingerprint", "fingerprint"),
    ("delta_versions", "Delta versions"),
)

#: Those of the report of one column, where a run wrote several.
_OF_COLUMN = {
    "rows_selected", "rows_embedded", "rows_failed", "failures", "rows_without_vector", "rows_skipped", "rows_trimmed", "fingerprint",
}  # fmt: skip
COLUMN = tuple(line for line in SUMMARY if line[0] in _OF_COLUMN)

#: Keys of an estimate in the order of its summary, with the words for people.
ESTIMATE = (
    ("rows_selected", "rows selected"),
    ("rows_skipped", "rows up to date"),
    ("rows_pending", "rows to embed"),
    ("unique_texts", "unique texts"),
    ("dedupe_rate", "share that needs no pass"),
    ("sample_texts", "texts in the sample"),
    ("tokens_per_text", "tokens per text"),
    ("trimmed_texts", "texts trimmed in the sample"),
    ("tokens_to_compute", "tokens to compute"),
    ("tokens_saved", "tokens saved"),
    ("waves", "waves"),
    ("bytes_written", "bytes written"),
    ("tokens_per_second", "tokens per second and executor"),
    ("seconds", "seconds beside the model"),
)

#: Keys of a dry run's plan in the order of its summary, with the words for people.
PLAN = (
    ("source_version", "version of the source"),
    ("rows_selected", "rows selected"),
    ("rows_skipped", "rows up to date"),
    ("rows_pending", "rows to embed"),
    ("unique_texts", "unique texts"),
    ("texts_without_content", "NULL and blank texts"),
    ("trimmed_texts", "texts trimmed"),
    ("tokens_to_compute", "tokens to compute"),
    ("tokens_saved", "tokens saved"),
    ("waves", "waves"),
    ("creates_target", "creates the target"),
    ("adds_columns", "adds columns"),
    ("migration", "migration"),
    ("stream", "stream"),
    ("fingerprint", "fingerprint"),
)

#: Keys of a table's state in the order of its summary, with the words for people.
STATE = (
    ("rows_selected", "rows in scope"),
    ("rows_done", "done"),
    ("rows_to_do", "to do by the next run"),
    ("rows_new", "- new"),
    ("rows_changed", "- with another text"),
    ("rows_of_other_specs", "- with a vector of another spec"),
    ("rows_broken", "- with a vector that is not whole"),
    ("rows_retried", "- failed, tried again"),
    ("rows_failed", "failed"),
    ("failures", "why"),
    ("rows_orphaned", "rows whose key left the source"),
    ("orphans_are", "these are"),
    ("passages_lost", "passages that their text lost"),
    ("journal", "journal"),
    ("quarantine", "quarantine"),
    ("fingerprint", "spec of the settings"),
    ("stored_fingerprint", "spec of the table"),
)
#: Left out where there is nothing to say.
_ONLY_IF_ANY = {
    "quality",
    "migration",
    "failures",
    "rows_without_vector",
    "rows_deleted",
    "rows_new",
    "rows_changed",
    "rows_of_other_specs",
    "rows_broken",
    "rows_retried",
    "rows_orphaned",
    "orphans_are",
    "passages_lost",
}


def show_report(console: Console, title: str, report: Mapping[str, Any], summary: Sequence[tuple[str, str]] = SUMMARY) -> None:
    """Print a report's figures, one a line, without keys that the report lacks and without those that say something only if set."""
    show_figures(console, title, figures_of(report, summary))


def figures_of(report: Mapping[str, Any], summary: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Choose a report's figures that are worth a line; returns each under its words for people."""
    return {words: report[key] for key, words in summary if key in report and (report[key] or key not in _ONLY_IF_ANY)}


def show_run(console: Console, title: str, report: Mapping[str, Any], files: Sequence[str], quarantine: str) -> None:
    """Print what a run did, where its report is, and where rows without a vector stand. A run with nothing to do is one line.

    Args:
        console: The terminal.
        title: The table and the column.
        report: As a run returns it.
        files: The report's files.
        quarantine: The table of rows without a vector.
    """
    n_without = report["rows_without_vector"]
    where = f"{counted(n_without, 'row')} without a vector: the reasons are in {quarantine}"
    if report["status"] == "nothing_to_do" and not (report["rows_deleted"] or report["rows_orphaned"]):
        rows = f"{title}, nothing to do: {counted(report['rows_selected'], 'row')} up to date"
        say(console, f"{rows}; {where}" if n_without else rows)
        return
    show_report(console, title, report)
    for part in report.get("columns", ()):
        show_report(console, f"column {part['column']}: {part['status']}", part, COLUMN)
    if n_without:
        say(console, where)
    for file in files:
        say(console, f"report: {file}")


def show_plan(console: Console, title: str, plan: Mapping[str, Any]) -> None:
    """Print what a job would do, and how its tokens are known."""
    show_report(console, title, {**plan, "adds_columns": plan["adds_columns"] or "none"}, PLAN)
    how = "of all texts" if plan["tokens_counted"] else f"projected from {plan['sample_texts']:,} texts"
    say(console, f"tokens are {how}; nothing was written")


def show_estimate(console: Console, title: str, report: Mapping[str, Any]) -> None:
    """Print what a run would take: what there is to do, then a line for each number of executors."""
    show_report(console, title, report, ESTIMATE)
    for line in report["projections"]:
        cost = "" if line["cost"] is None else f", cost {format_value(line['cost'])}"
        words = f"  {line['executors']:>6,} executors  {line['hours']:>10,.3f} hours{cost}"
        say(console, words)
    wave_rows = report["better_wave_rows"]
    if wave_rows is not None:
        say(console, f"waves are short beside their commits: runtime.wave_rows={wave_rows} makes them last about five minutes")


def show_draft(console: Console, file: str, draft: Draft) -> None:
    """Print what a drafted configuration takes the table's columns for, and what to do next."""
    guess = draft.guess
    figures = {
        "rows": draft.n_rows,
        "rows looked at": guess.n_sampled,
        "key": guess.key,
        "other unique columns": guess.other_keys,
        "text": guess.text,
        "characters of a text, mean": guess.mean_length,
        "characters, longest": guess.longest,
        "other strings, mean length": dict(guess.other_texts),
    }
    show_figures(console, f"{file}: a configuration for {draft.table}", figures)
    say(console, f"look at it, then: metaeol doctor {file}")


def show_settings(console: Console, conf: str, settings: Sequence[EffectiveSetting]) -> None:
    """Print the settings in force, one a line, with where each comes from."""
    rows = [(each.name, write_yaml(each.value), str(each.origin)) for each in settings]
    show_columns(console, f"{conf}: the settings in force", ("setting", "value", "from"), rows)


def show_status(console: Console, title: str, state: Mapping[str, Any]) -> None:
    """Print how far a table is, in what the settings differ from how its vectors were made, and its last runs."""
    shown = figures_of(state, STATE)
    journal, quarantine = state["journal"], state["quarantine"]
    shown["journal"] = f"{counted(journal['rows'], 'row')}, {journal['rows_of_spec']:,} of this spec; {journal['bytes']:,} bytes"
    shown["quarantine"] = counted(quarantine["rows"], "row") + (f": {format_value(quarantine['reasons'])}" if quarantine["rows"] else "")
    if state["differs"]:
        shown["settings that differ"] = ", ".join(
            f"{name} ({old} in the table, {new} here)" for name, (old, new) in state["differs"].items()
        )
    show_figures(console, title, shown)
    if state["last_runs"]:
        rows = [(run["run_id"], run["ended"], run["spec"], ", ".join(map(str, run["versions"]))) for run in state["last_runs"]]
        show_columns(console, "last runs", ("run", "last commit", "spec", "versions of the table"), rows)


def show_drop(
    items: Sequence[DropItem | Mapping[str, Any]], title: str, console: Console | None = None, *, is_done: bool | None = None
) -> None:
    """Print what is dropped, would be, or was, a line each."""
    console = console or Console()
    if not items:
        say(console, f"{title}: there is nothing to drop")
        return
    done = {None: "what is dropped", True: "dropped", False: "nothing was dropped of this"}[is_done]
    rows = [tuple((item if isinstance(item, Mapping) else vars(item))[name] for name in ("kind", "name", "said")) for item in items]
    show_columns(console, f"{title}: {done}", ("what", "name", ""), rows)
    if is_done:
        say(console, "earlier versions of a table that stays hold the vectors until VACUUM")


def show_rollback(console: Console, title: str, report: Mapping[str, Any]) -> None:
    """Print what came back, and what to set so that the next run goes on from there."""
    figures = {
        "spec": f"{report['from_spec']} to {report['to_spec']}",
        "rows with their earlier vector": report["rows_restored"],
        "rows emptied, without one": report["rows_emptied"],
        "rows changed meanwhile": report["rows_stale"],
    }
    show_figures(console, f"{title}: back to version {report['version']}", {name: value for name, value in figures.items() if value})
    label = report["label"]
    names = ", ".join(f"{name}: {label[name]}" for name in ("model", "revision", "templates", "layer", "dtype") if name in label)
    say(console, f"set embedding to what made these vectors ({names}), or the next run replaces them")
