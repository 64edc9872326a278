"""Prints what the model would say next after each prompt, and what template sets hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaeol_udf.cli.views.printing import say, show_figures
from metaeol_udf.formatting import first_words
from metaeol_udf.terminal import show_columns

if TYPE_CHECKING:
    from metaeol_udf.explain.next_words import Explanation
    from metaeol_udf.prompts.checks import SetCheck

_WORDS_WIDTH = 24  # characters of a template's column of words, lines and padding included


def show_words(console: Console, explanation: Explanation) -> None:
    """Print the most probable next words of each template: side by side on a terminal, else block after block."""
    layer = "" if explanation.layer == explanation.n_layers else f", read from hidden state {explanation.layer} of {explanation.n_layers}"
    trimmed = " (trimmed to max_tokens)" if explanation.is_trimmed else ""
    title = f'Next words after "{first_words(explanation.text, 100)}"{trimmed}{layer}'
    say(console, title, style="bold")
    templates = explanation.templates
    if not console.is_terminal:
        for template in templates:
            lines = [f"  {word.probability:6.4f}  {word.visible}" for word in template.words]
            say(console, "\n".join(["", f"{template.meta_task}: {template.cue}", *lines]))
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


#: What each built-in set is for.
USES = {
    "metaeol": "the default: four meta-tasks, four beginnings",
    "metaeol-fast": "long texts: all meta-tasks in one pass of the text",
    "metaeol-reversed": "no labels at hand: two questions, words in both orders",
    "metaeol-separate": "comparisons: the layout of the paper, eight beginnings",
    "metaeol-two": "short texts at a low cost: two prompts",
    "prompteol": "comparisons: one plain prompt",
}


def show_template_sets(console: Console, checks: Sequence[SetCheck]) -> None:
    """Print a table of template sets; with tokens where they were counted."""
    head, rows = ["set", "templates", "prefixes"], [[check.name, str(check.n_templates), str(check.n_prefixes)] for check in checks]
    counted = [check.tokens for check in checks if check.tokens is not None]
    if counted:
        head += ["tokens once", f"tokens a text of {counted[0].n_text_tokens:,}"]
        rows = [[*row, f"{tokens.prefixes:,}", f"{tokens.computed:,}"] for row, tokens in zip(rows, counted, strict=True)]
    rows = [[*row, USES.get(check.name, "")] for row, check in zip(rows, checks, strict=True)]
    show_columns(console, "Built-in template sets", [*head, "for"], rows, right=set(range(1, len(head))))


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
            say(console, Text(f"{kind:<8} ", style), found)
