"""How the results of single commands look on a terminal, and in a pipe or a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaeol_udf.cli.arguments import Format
from metaeol_udf.files import write_yaml
from metaeol_udf.formatting import counted, first_words, flatten, format_value, visible
from metaeol_udf.terminal import print_csv, print_json, show_columns

if TYPE_CHECKING:
    from metaeol_udf.care import DropItem
    from metaeol_udf.config import EffectiveSetting
    from metaeol_udf.doctor import Finding
    from metaeol_udf.explain.next_words import Explanation
    from metaeol_udf.prompts.checks import SetCheck
    from metaeol_udf.search import DuplicatePair, Hit
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

#: Keys of an estimate in the order of its summary, with the words for people.
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

#: Keys of a dry run's plan in the order of its summary, with the words for people.
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
    ("journal", "journal"),
    ("quarantine", "quarantine"),
    ("fingerprint", "spec of the settings"),
    ("stored_fingerprint", "spec of the table"),
)
_ONLY_IF_ANY = (
    "rows_new",
    "rows_changed",
    "rows_of_other_specs",
    "rows_broken",
    "rows_retried",
    "failures",
    "rows_orphaned",
    "orphans_are",
)

_MAYBE = (
    "quality",
    "migration",
    "failures",
    "rows_without_vector",
    "rows_deleted",
    "rows_orphaned",
)  # left out where there is nothing to say
_WORDS_WIDTH = 24  # characters of a template's column of words, lines and padding included


def emit(
    as_json: bool,
    value: object,
    show: Callable[[Console], None],
    how: Format = Format.TABLE,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Emit a command's result.

    Args:
        as_json: Whether JSON was asked for by its own option.
        value: The result in plain values, for JSON.
        show: Prints the result for people.
        how: What `--format` says.
        rows: The result as rows, for CSV; None where `value` is a mapping, each of whose values is then a row.
    """
    if as_json or how is Format.JSON:
        print_json(value)
    elif how is Format.CSV:
        pairs = flatten(value) if isinstance(value, Mapping) else ()
        print_csv([{"name": name, "value": item} for name, item in pairs] if rows is None else rows)
    else:
        show(Console())


def _say(console: Console, *words: str | Text, style: str | None = None) -> None:
    """Print words as they are: nothing in them is markup or obeyed, and a long line stays a line in a pipe."""
    shown = [visible(word) if isinstance(word, str) else word for word in words]
    console.print(*shown, style=style, sep="", markup=False, highlight=False, soft_wrap=True)


def show_report(console: Console, title: str, report: Mapping[str, Any], summary: Sequence[tuple[str, str]] = SUMMARY) -> None:
    """Print a report's figures, one a line; keys that the report lacks are left out, and the gate's where it did not judge."""
    show_figures(console, title, {words: report[key] for key, words in summary if key in report and (report[key] or key not in _MAYBE)})


def show_figures(console: Console, title: str, figures: Mapping[str, Any]) -> None:
    """Print figures under a title, one a line: the words that name a figure, then its value."""
    lines = [(words, format_value(value)) for words, value in figures.items()]
    show_columns(console, title, (), lines)


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
        _say(console, f"{rows}; {where}" if n_without else rows)
        return
    show_report(console, title, report)
    if n_without:
        _say(console, where)
    for file in files:
        _say(console, f"report: {file}")


def show_plan(console: Console, title: str, plan: Mapping[str, Any]) -> None:
    """Print what a job would do, and how its tokens are known."""
    show_report(console, title, {**plan, "adds_columns": plan["adds_columns"] or "none"}, PLAN)
    how = "of all texts" if plan["tokens_counted"] else f"projected from {plan['sample_texts']:,} texts"
    _say(console, f"tokens are {how}; nothing was written")


def show_estimate(console: Console, title: str, report: Mapping[str, Any]) -> None:
    """Print what a run would take: what there is to do, then a line for each number of executors."""
    show_report(console, title, report, ESTIMATE)
    for line in report["projections"]:
        cost = "" if line["cost"] is None else f", cost {format_value(line['cost'])}"
        words = f"  {line['executors']:>6,} executors  {line['hours']:>10,.3f} hours{cost}"
        _say(console, words)


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
    _say(console, f"look at it, then: metaeol doctor {file}")


def show_settings(console: Console, conf: str, settings: Sequence[EffectiveSetting]) -> None:
    """Print the settings in force, one a line, with where each comes from."""
    rows = [(each.name, write_yaml(each.value), str(each.origin)) for each in settings]
    show_columns(console, f"{conf}: the settings in force", ("setting", "value", "from"), rows)


def show_status(console: Console, title: str, state: Mapping[str, Any]) -> None:
    """Print how far a table is, in what the settings differ from how its vectors were made, and its last runs."""
    shown = {words: state[key] for key, words in STATE if key in state and (state[key] or key not in _ONLY_IF_ANY)}
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
        _say(console, f"{title}: there is nothing to drop")
        return
    done = {None: "what is dropped", True: "dropped", False: "nothing was dropped of this"}[is_done]
    rows = [tuple((item if isinstance(item, Mapping) else vars(item))[name] for name in ("kind", "name", "said")) for item in items]
    show_columns(console, f"{title}: {done}", ("what", "name", ""), rows)
    if is_done:
        _say(console, "earlier versions of a table that stays hold the vectors until VACUUM")


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
    _say(console, f"set embedding to what made these vectors ({names}), or the next run replaces them")


def show_finding(console: Console, finding: Finding) -> None:
    """Print one finding of the doctor: level, check, what was found, and on a line of its own what to set."""
    style = {"ok": "green", "warning": "yellow", "problem": "bold red"}[finding.level.value]
    _say(console, Text(f"{finding.level.value:<8} ", style), f"{finding.check:<16} {finding.found}")
    if finding.setting:
        _say(console, f"{'':<26}{finding.advice}")


def show_verdict(console: Console, findings: Sequence[Finding]) -> None:
    """Print the warnings of the doctor, then the problems, then how many of each there are."""
    counts = {level: [finding for finding in findings if finding.level.value == level] for level in ("warning", "problem")}
    for found in counts.values():
        for finding in found:
            show_finding(console, finding)
    _say(console, ", ".join([counted(len(findings), "check"), *[counted(len(found), level) for level, found in counts.items()]]))


def show_hit_lists(console: Console, queries: Sequence[str], lists: Sequence[Sequence[Hit]]) -> None:
    """Print a list of hits for each query, an empty line between two lists."""
    for number, (query, hits) in enumerate(zip(queries, lists, strict=True)):
        if number:
            console.print()
        show_hits(console, query, hits)


def show_hits(console: Console, query: str, hits: Sequence[Hit]) -> None:
    """Print the nearest rows of a query, best first: score, key and the beginning of the text on one line; equal texts once."""
    _say(console, f'"{query}"', style="bold")
    same = Counter(hit.text for hit in hits)
    first = {hit.text: hit for hit in reversed(hits)}
    shown = [hit for hit in hits if hit.text is None or first[hit.text] is hit]
    _show_rows(console, [(f"{hit.score:6.4f}", hit.key, _with_more(hit.text, same[hit.text])) for hit in shown])


def show_pairs(console: Console, pairs: Sequence[DuplicatePair]) -> None:
    """Print pairs of rows, most similar first: the score and both rows with key and the beginning of the text, a line each.

    Rows of one text stand together, and the text stands there once.
    """
    if not pairs:
        console.print("no pair", markup=False, highlight=False)
    of_text: dict[str, list[Mapping[str, Any]]] = {}  # rows of the same text
    for pair in pairs:
        if pair.texts[0] is not None and pair.texts[0] == pair.texts[1]:
            keys = of_text.setdefault(pair.texts[0], [])
            keys += [key for key in pair.keys if key not in keys]
    rows: list[tuple[str, Mapping[str, Any], str | None]] = []
    for pair in pairs:
        (one, other), (text, other_text) = pair.keys, pair.texts
        if text is None or text != other_text:
            rows += [(f"{pair.score:6.4f}", one, text), (" " * 6, other, other_text)]
        elif text in of_text:
            first, *others = of_text.pop(text)
            rows += [(f"{pair.score:6.4f}", first, text), *((" " * 6, key, "(the same text)") for key in others)]
    _show_rows(console, rows)


def _with_more(text: str | None, n_rows: int) -> str | None:
    """Say of a text how many more rows have it."""
    return text if text is None or n_rows == 1 else f"(and {counted(n_rows - 1, 'more row')}) {text}"


def _show_rows(console: Console, rows: Sequence[tuple[str, Mapping[str, Any], str | None]]) -> None:
    """Print rows of a table, a line each: what stands before the key, the key, and the beginning of the text."""
    keys = [first_words(" ".join(map(str, key.values())), 200) for _, key, _ in rows]
    width = min(48, max(map(len, keys), default=0))
    for (start, _, text), key in zip(rows, keys, strict=True):
        words = f"  {start}  {key:<{width}}  "
        line = words + first_words(text, max(20, (console.width if console.is_terminal else 140) - len(words)))
        console.print(line, markup=False, highlight=False, no_wrap=True, soft_wrap=True)


def show_words(console: Console, explanation: Explanation) -> None:
    """Print the most probable next words of each template: side by side on a terminal, else block after block."""
    layer = "" if explanation.layer == explanation.n_layers else f", read from hidden state {explanation.layer} of {explanation.n_layers}"
    trimmed = " (trimmed to max_tokens)" if explanation.is_trimmed else ""
    title = f'Next words after "{first_words(explanation.text, 100)}"{trimmed}{layer}'
    _say(console, title, style="bold")
    templates = explanation.templates
    if not console.is_terminal:
        for template in templates:
            lines = [f"  {word.probability:6.4f}  {word.visible}" for word in template.words]
            _say(console, "\n".join(["", f"{template.meta_task}: {template.cue}", *lines]))
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


def show_template_sets(console: Console, checks: Sequence[SetCheck]) -> None:
    """Print a line a template set; with tokens where they were counted."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = f"{check.name:<{width}}  {check.n_templates:>3} templates  {check.n_prefixes:>3} prefixes"
        if check.tokens is not None:
            tokens = check.tokens
            line += f"  {tokens.prefixes:>5,} tokens once  {tokens.computed:>5,} tokens for a text of {tokens.n_text_tokens:,}"
        _say(console, line)


def show_template_check(console: Console, check: SetCheck) -> None:
    """Print the figures of a template set's check, then its problems and warnings."""
    figures: dict[str, object] = {"templates": check.n_templates, "prefixes": check.n_prefixes, "suffixes": check.n_suffixes}
    tokens = check.tokens
    if tokens is not None:
        figures |= {
            "tokens of the text": tokens.n_text_tokens,
            "passes of the text": tokens.n_text_passes,
            "tokens of prefixes, once": tokens.prefixes,
            "tokens of text passes": tokens.texts,
            "tokens of suffixes": tokens.suffixes,
            "tokens computed a text": tokens.computed,
            "tokens of whole prompts": tokens.whole,
            "prompts are cut": tokens.is_cut,
        }
    show_figures(console, check.name, figures)
    for kind, style, sentences in (("problem", "bold red", check.problems), ("warning", "yellow", check.warnings)):
        for found in sentences:
            _say(console, Text(f"{kind:<8} ", style), found)
