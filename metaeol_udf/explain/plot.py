"""The picture of an explanation: bars of the most probable next words, one panel a template."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.explain.next_words import Explanation, TemplateWords
from metaeol_udf.formatting import first_words
from metaeol_udf.plots import BLUE, GREEN, hide_frame, new_figure, save_figure

_COLOURS = (BLUE, "#b0413e", GREEN, "#b7791f", "#6b46c1", "#4a5568")  # one a meta-task, then again from the first
_COLUMNS = 4
_BOX = "\N{WHITE SQUARE}"
_TEXT_CHARACTERS = 100  # of the title


def draw_explanation(explanation: Explanation, path: Path) -> None:
    """Draw an explanation into a file, whose ending names the format, such as `.png` or `.svg`; errors are those of `save_figure`."""
    templates = explanation.templates
    n_columns = min(_COLUMNS, len(templates))
    n_rows = math.ceil(len(templates) / n_columns)
    n_words = max(len(template.words) for template in templates)
    figure = new_figure(3.1 * n_columns, 1.0 + n_rows * (0.7 + 0.22 * n_words))
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    colours = dict(zip(dict.fromkeys(t.meta_task for t in templates), _COLOURS * len(templates), strict=False))
    most = max(word.probability for template in templates for word in template.words)
    for panel in panels.flat[len(templates) :]:
        panel.set_axis_off()
    asked: Counter[str] = Counter()
    times = Counter(template.meta_task for template in templates)
    for panel, template in zip(panels.flat, templates, strict=False):
        asked[template.meta_task] += 1
        number = f" ({asked[template.meta_task]} of {times[template.meta_task]})" if times[template.meta_task] > 1 else ""
        _draw_template(panel, template, f"{template.meta_task}{number}", colours[template.meta_task], most)
    title = _literal(f"Next words after: {first_words(explanation.text, _TEXT_CHARACTERS)}")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel("probability that the model says this word next", x=0.01, ha="left", fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot write the figure {path}: {error.strerror or error}") from None
    save_figure(figure, path, dpi=150)


def _draw_template(panel: Any, template: TemplateWords, name: str, colour: str, most: float) -> None:
    places = range(len(template.words))
    bars = panel.barh(places, [word.probability for word in template.words], color=colour, height=0.72)
    panel.bar_label(bars, [f"{word.probability:.3f}" for word in template.words], padding=3, fontsize=7, color="#555555")
    panel.set_yticks(places, [_literal(word.visible) for word in template.words], fontsize=8)
    panel.set_title(_literal(f"{name}\n… {template.cue[-40:]}"), loc="left", fontsize=9, color=colour)
    panel.set(xlim=(0, most * 1.22), xticks=[])  # the same scale in all panels, with room for the figures
    panel.invert_yaxis()
    hide_frame(panel, "bottom")
    panel.tick_params(left=False)


def _literal(text: str) -> str:
    """Return text as matplotlib draws it: dollar signs would mean formulas, and what its font lacks becomes a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    drawn = "".join(char if ord(char) in known or char == "\n" else _BOX for char in text)
    return drawn.replace("$", r"\$")
