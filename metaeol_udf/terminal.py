"""How results look: tables on a terminal, plain aligned lines in a pipe or a log."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

#: Report keys in the order of the summary, with the words for people.
SUMMARY = (
    ("rows_selected", "rows selected"),
    ("rows_embedded", "rows embedded"),
    ("rows_failed", "rows failed"),
    ("rows_skipped", "rows up to date"),
    ("rows_trimmed", "rows trimmed"),
    ("unique_texts", "unique texts"),
    ("tokens_computed", "tokens computed"),
    ("tokens_saved", "tokens saved"),
    ("texts_per_second", "texts per second"),
    ("seconds", "seconds"),
    ("quality", "quality"),
    ("model_loads", "model loads"),
    ("executors", "executors"),
    ("fingerprint", "fingerprint"),
    ("delta_versions", "Delta versions"),
)


#: The same for an estimate.
ESTIMATE = (
    ("rows_selected", "rows selected"),
    ("rows_skipped", "rows up to date"),
    ("rows_pending", "rows to embed"),
    ("unique_texts", "unique texts"),
    ("dedupe_rate", "share that needs no pass"),
    ("sample_texts", "texts in the sample"),
    ("tokens_per_text", "tokens per text"),
    ("trimmed_share", "share trimmed"),
    ("tokens_to_compute", "tokens to compute"),
    ("tokens_saved", "tokens saved"),
    ("waves", "waves"),
    ("bytes_written", "bytes written"),
    ("tokens_per_second", "tokens per second and executor"),
    ("seconds", "seconds beside the model"),
)

#: The same for a drafted configuration.
DRAFT = (
    ("rows", "rows"),
    ("rows_looked_at", "rows looked at"),
    ("key", "key"),
    ("other_keys", "other unique columns"),
    ("text", "text"),
    ("mean_characters", "characters of a text, mean"),
    ("longest_characters", "characters, longest"),
    ("other_texts", "other strings, mean length"),
)

#: The same for a dry run.
PLAN = (
    ("source_version", "version of the source"),
    ("rows_selected", "rows selected"),
    ("rows_skipped", "rows up to date"),
    ("rows_pending", "rows to embed"),
    ("unique_texts", "unique texts"),
    ("texts_without_content", "NULL and blank texts"),
    ("trimmed_share", "share trimmed"),
    ("tokens_to_compute", "tokens to compute"),
    ("tokens_saved", "tokens saved"),
    ("waves", "waves"),
    ("creates_target", "creates the target"),
    ("adds_columns", "adds columns"),
    ("migration", "migration"),
    ("stream", "stream"),
    ("fingerprint", "fingerprint"),
)

#: The same for a template set.
TEMPLATE_SET = (
    ("n_templates", "templates"),
    ("n_prefixes", "prefixes"),
    ("n_suffixes", "suffixes"),
    ("n_text_tokens", "tokens of the text"),
    ("n_text_passes", "passes of the text"),
    ("prefixes", "tokens of prefixes, once"),
    ("texts", "tokens of text passes"),
    ("suffixes", "tokens of suffixes"),
    ("computed", "tokens computed a text"),
    ("whole", "tokens of whole prompts"),
    ("is_cut", "prompts are cut"),
)

_MAYBE = ("quality", "migration")  # left out where they are None
_WORDS_WIDTH = 24  # characters of a template's column of words, lines and padding included


def print_json(value: Any) -> None:
    """Print what a command found. A number that JSON has no word for, as a score of vectors that are all equal, is null."""
    typer.echo(json.dumps(_without_nan(value), indent=1, default=str, allow_nan=False))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def waiting(words: str) -> Iterator[None]:
    """Show, on a terminal, that work goes on in Spark, and for how long; in a pipe or a log nothing."""
    if not sys.stderr.isatty():
        yield
        return
    # A copy of the terminal, because standard error itself is lent to the JVM while it starts.
    with os.fdopen(os.dup(2), "w") as file:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=file), transient=True) as bar:
            bar.add_task(words, total=None)
            yield


def show_report(console: Console, title: str, report: Mapping[str, Any], summary: Sequence[tuple[str, str]] = SUMMARY) -> None:
    """Print a report's figures, one a line; keys that the report lacks are left out, and the gate's where it did not judge."""
    lines = [(words, format_value(report[key])) for key, words in summary if key in report and not (key in _MAYBE and report[key] is None)]
    if not console.is_terminal:
        width = max(len(words) for words, _ in lines)
        console.print(
            "\n".join([title, *(f"  {words:<{width}}  {value}" for words, value in lines)]), markup=False, highlight=False, soft_wrap=True
        )
        return
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="cyan")
    table.add_column(justify="left", overflow="fold")
    for words, value in lines:
        table.add_row(Text(words), Text(value))
    console.print(table)


def show_columns(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print rows of cells under a head; columns whose place is in `right` are set to the right."""
    if console.is_terminal:
        table = Table(title=Text(title), title_justify="left")
        for place, words in enumerate(head):
            table.add_column(words, justify="right" if place in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [title]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def show_hits(console: Console, query: str, hits: Sequence[Any]) -> None:
    """Print the nearest rows of a query, best first: score, key and the beginning of the text on one line."""
    console.print(f'"{query}"', markup=False, highlight=False, style="bold", soft_wrap=True)
    keys = [" ".join(str(value) for value in hit.key.values()) for hit in hits]
    width = min(48, max(map(len, keys), default=0))
    for hit, key in zip(hits, keys, strict=True):
        start = f"  {hit.score:6.4f}  {key:<{width}}  "
        line = start + shorten(hit.text, max(20, (console.width if console.is_terminal else 140) - len(start)))
        console.print(line, markup=False, highlight=False, no_wrap=True, soft_wrap=True)


def show_pairs(console: Console, pairs: Sequence[Any]) -> None:
    """Print pairs of rows, most similar first: the score and both rows with key and the beginning of the text, a line each."""
    keys = [[" ".join(str(value) for value in key.values()) for key in pair.keys] for pair in pairs]
    width = min(48, max((len(key) for both in keys for key in both), default=0))
    if not pairs:
        console.print("no pair", markup=False, highlight=False)
    for pair, both in zip(pairs, keys, strict=True):
        for start, key, text in zip((f"{pair.score:6.4f}", " " * 6), both, pair.texts, strict=True):
            words = f"  {start}  {key:<{width}}  "
            line = words + shorten(text, max(20, (console.width if console.is_terminal else 140) - len(words)))
            console.print(line, markup=False, highlight=False, no_wrap=True, soft_wrap=True)


def show_words(console: Console, explanation: Any) -> None:
    """Print the most probable next words of each template: side by side on a terminal, else block after block."""
    layer = "" if explanation.layer == explanation.n_layers else f", read from hidden state {explanation.layer} of {explanation.n_layers}"
    trimmed = " (trimmed to max_tokens)" if explanation.is_trimmed else ""
    title = f'Next words after "{shorten(explanation.text, 100)}"{trimmed}{layer}'
    console.print(title, markup=False, highlight=False, style="bold", soft_wrap=True)
    templates = explanation.templates
    if not console.is_terminal:
        for template in templates:
            lines = [f"  {word.probability:6.4f}  {word.visible}" for word in template.words]
            console.print("\n".join(["", f"{template.meta_task}: {template.cue}", *lines]), markup=False, highlight=False, soft_wrap=True)
        return
    n_side_by_side = max(1, console.width // _WORDS_WIDTH)
    for start in range(0, len(templates), n_side_by_side):
        some = templates[start : start + n_side_by_side]
        table = Table(padding=(0, 1))
        for template in some:
            table.add_column(Text(f"{template.meta_task}\n{template.cue[-40:]}"), overflow="fold", max_width=_WORDS_WIDTH - 3)
        for words in zip(*(template.words for template in some), strict=True):
            table.add_row(*(Text.assemble((f"{word.probability:.3f} ", "dim"), word.visible) for word in words))
        console.print(table)


def show_template_sets(console: Console, checks: Sequence[Any]) -> None:
    """Print a line a template set; with tokens where they were counted."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = f"{check.name:<{width}}  {check.n_templates:>3} templates  {check.n_prefixes:>3} prefixes"
        if check.tokens is not None:
            tokens = check.tokens
            line += f"  {tokens.prefixes:>5,} tokens once  {tokens.computed:>5,} tokens for a text of {tokens.n_text_tokens:,}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_template_check(console: Console, check: Any) -> None:
    """Print what is known of a template set, then its problems and warnings."""
    tokens = {} if check.tokens is None else {**vars(check.tokens), "computed": check.tokens.computed}
    show_report(console, check.name, {**vars(check), **tokens}, TEMPLATE_SET if tokens else TEMPLATE_SET[:3])
    for kind, style in (("problem", "bold red"), ("warning", "yellow")):
        for found in getattr(check, f"{kind}s"):
            console.print(Text(f"{kind:<8} ", style), found, markup=False, highlight=False, sep="", soft_wrap=True)


def show_finding(console: Console, finding: Any) -> None:
    """Print one finding of the doctor: level, check, what was found, and on a line of its own what to set."""
    style = {"ok": "green", "warning": "yellow", "problem": "bold red"}[finding.level]
    console.print(
        Text(f"{finding.level.value:<8} ", style),
        f"{finding.check:<16} {finding.found}",
        markup=False,
        highlight=False,
        sep="",
        soft_wrap=True,
    )
    if finding.setting:
        console.print(f"{'':<26}set {finding.setting}", markup=False, highlight=False, soft_wrap=True)


def show_estimate(console: Console, title: str, report: Mapping[str, Any]) -> None:
    """Print what a run would take: what there is to do, then a line for each number of executors."""
    show_report(console, title, report, ESTIMATE)
    for line in report["projections"]:
        cost = "" if line["cost"] is None else f", cost {format_value(line['cost'])}"
        words = f"  {line['executors']:>6,} executors  {line['hours']:>10,.3f} hours{cost}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)


def show_plan(console: Console, title: str, plan: Mapping[str, Any]) -> None:
    """Print what a job would do, and how its tokens are known."""
    show_report(console, title, {**plan, "adds_columns": plan["adds_columns"] or "none"}, PLAN)
    how = "of all texts" if plan["tokens_counted"] else f"projected from {plan['sample_texts']:,} texts"
    console.print(f"tokens are {how}; nothing was written", markup=False, highlight=False, soft_wrap=True)


def show_draft(console: Console, file: str, facts: Mapping[str, Any]) -> None:
    """Print what a drafted configuration takes the table's columns for, and what to do next."""
    show_report(console, f"{file}: a configuration for {facts['table']}", facts, DRAFT)
    console.print(f"look at it, then: metaeol doctor {file}", markup=False, highlight=False, soft_wrap=True)


def shorten(text: str | None, n_characters: int) -> str:
    """The beginning of a text on one line."""
    line = " ".join((text or "").split())
    return line if len(line) <= n_characters else line[: n_characters - 1] + "…"


def format_value(value: Any) -> str:
    """A figure for people: thousands apart, two decimals, mappings as `name value` pairs."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, Mapping):
        parts = ((name, f"({format_value(item)})" if isinstance(item, Mapping) else format_value(item)) for name, item in value.items())
        return ", ".join(f"{name} {words}" for name, words in parts)
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(item) for item in value)
    return str(value)
