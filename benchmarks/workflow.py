"""The way of one text through the prompt trie, drawn from a real run: prefixes, text passes, suffixes, outputs and their mean.

    python -m benchmarks.workflow ["A text."] [--spec conf/demo.yaml] [--out docs/figures/workflow.png]

All counts are those of the encoder, and so are the vectors; the words are those of `metaeol explain`.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.plots import import_pyplot
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from metaeol_udf.encoder.preparation import clean_and_trim
from metaeol_udf.explain.next_words import explain_text

_TEXT = "The new camera takes sharp pictures even at night."
_COLOURS = ("#2b6cb0", "#b0413e", "#2f855a", "#b7791f", "#6b46c1", "#4a5568")
_GREY = "#555555"
_HEAD, _PASS, _TAIL, _OUTPUT, _MEAN = (0.0, 29.0), (33.5, 20.0), (58.5, 16.5), (80.0, 12.0), (96.5, 4.5)  # left edge and width
_SUFFIX_CHARACTERS = 31  # that fit their box
_N_VALUES = 48  # of a vector, drawn as a strip


@dataclass(frozen=True)
class Branch:
    """One prefix group of a run.

    Attributes:
        prefix: Its tokens as characters.
        n_prefix: How many they are.
        middle: The text's tokens, with what the cuts leave beside them, as characters.
        n_middle: How many they are.
        suffixes: For each template its index, its suffix as characters, and the suffix tokens that no earlier template of the group has.
    """

    prefix: str
    n_prefix: int
    middle: str
    n_middle: int
    suffixes: list[tuple[int, str, int]]


@dataclass(frozen=True)
class Run:
    """What was computed for one text.

    Attributes:
        branches: The prefix groups.
        states: float32, shape ``(n_templates, hidden_size)``.
        mean: float32, shape ``(hidden_size,)``.
        words: The most probable next word of each template.
        n_computed: Tokens that went through the model, prefixes included.
        n_whole: Tokens of the whole prompts.
    """

    branches: list[Branch]
    states: NDArray[np.float32]
    mean: NDArray[np.float32]
    words: list[str]
    n_computed: int
    n_whole: int


def run_text(spec: EmbeddingSpec, text: str) -> Run:
    """Embed one text and note what was computed."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    encoded = encoder.encode_rows([text])
    trie = encoder.engine.trie
    cleaned, _ = clean_and_trim(text, encoder.templates.text_cleanup, trie.tokenizer, spec.max_tokens)
    branches = []
    for group, (ids,) in zip(trie.groups, trie.tokenize([cleaned]), strict=True):
        prefix, middle = _characters(encoder, group.prefix_ids), _characters(encoder, ids)
        branches.append(Branch(prefix, len(group.prefix_ids), middle, len(ids), _suffixes(encoder, group)))
    words = [template.words[0].visible for template in explain_text(spec, text, device="cpu", top=1).templates]
    states = encoder.encode([text], per_template=True)[0]
    n_computed, n_saved = int(encoded.tokens_computed[0]), int(encoded.tokens_saved[0])
    return Run(branches, states, encoded.vectors[0], words, n_computed, n_computed + n_saved)


def _characters(encoder: MetaEOLEncoder, ids: Sequence[int]) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(encoder.spec.model).decode(list(ids)))


def _suffixes(encoder: MetaEOLEncoder, group: Any) -> list[tuple[int, str, int]]:
    suffixes, seen = [], set()
    for template, output in zip(group.template_indices, group.outputs, strict=True):
        path = {place for place in range(len(group.suffix_ids)) if output >= 0 and group.suffix_sees[output, place]}
        suffixes.append((template, _characters(encoder, [group.suffix_ids[place] for place in sorted(path)]), len(path - seen)))
        seen |= path
    return suffixes


def draw_run(run: Run, path: Path) -> None:
    """Draw a run into a file."""
    plt = import_pyplot()
    n_rows = len(run.states)
    figure, axes = plt.subplots(figsize=(14, 1.7 + 0.78 * n_rows), layout="constrained")
    axes.set(xlim=(-0.5, 101.5), ylim=(-1.0, n_rows + 0.55))
    axes.set_axis_off()
    y, centres = float(n_rows), []
    for branch, colour in zip(run.branches, _COLOURS * n_rows, strict=False):
        rows = [y - 0.5 - i for i in range(len(branch.suffixes))]
        _draw_branch(axes, run, branch, rows, colour)
        centres += [(row, colour) for row in rows]
        y -= len(rows)
    middle = n_rows / 2
    _strip(axes, run.mean, _MEAN[0], middle, _MEAN[1], 3.2, n_columns=4)
    axes.text(_MEAN[0] + _MEAN[1] / 2, middle - 1.75, f"{len(run.mean)}\nnumbers", ha="center", va="top", fontsize=9, color=_GREY)
    for row, colour in centres:
        _arrow(axes, (_OUTPUT[0] + _OUTPUT[1], row), (_MEAN[0], middle + (row - middle) * 0.3), colour)
    _draw_captions(axes, run, n_rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_branch(axes: Any, run: Run, branch: Branch, rows: Sequence[float], colour: str) -> None:
    centre = sum(rows) / len(rows)
    prefix = "\n".join(textwrap.wrap(branch.prefix, 49, max_lines=4, placeholder=" …"))
    _box(axes, _HEAD, centre, 1.36, f"{prefix}\n", colour, f"{branch.n_prefix} tokens, computed once")
    text = "\n".join(textwrap.wrap(branch.middle.strip(), 32, max_lines=3, placeholder=" …"))
    _box(axes, _PASS, centre, 1.36, f"{text}\n", colour, f"{branch.n_middle} tokens")
    _arrow(axes, (_HEAD[0] + _HEAD[1], centre), (_PASS[0], centre), colour)
    for row, (template, suffix, n_tokens) in zip(rows, branch.suffixes, strict=True):
        _arrow(axes, (_PASS[0] + _PASS[1], centre), (_TAIL[0], row), colour)
        _box(axes, _TAIL, row, 0.74, f"{_shorten(suffix.strip())}\n", colour, f"{n_tokens} tokens")
        _arrow(axes, (_TAIL[0] + _TAIL[1], row), (_OUTPUT[0], row), colour)
        _strip(axes, run.states[template], _OUTPUT[0], row + 0.13, _OUTPUT[1], 0.36, n_columns=_N_VALUES)
        axes.text(_OUTPUT[0], row - 0.13, f"would say: {run.words[template]}", fontsize=10, va="top", color=colour)


def _draw_captions(axes: Any, run: Run, n_rows: int) -> None:
    prefixes, texts = sum(branch.n_prefix for branch in run.branches), sum(branch.n_middle for branch in run.branches)
    suffixes = sum(n for branch in run.branches for _, _, n in branch.suffixes)
    share = (texts + suffixes) / run.n_whole
    columns = ((_HEAD, "prefixes"), (_PASS, "passes of the text"), (_TAIL, "suffixes"), (_OUTPUT, "hidden states"), (_MEAN, "mean"))
    for (left, width), name in columns:
        axes.text(left + width / 2, n_rows + 0.2, name, ha="center", fontsize=11, weight="bold")
    counts = ((_HEAD, f"{prefixes} tokens, once for all texts"), (_PASS, f"{texts} tokens"), (_TAIL, f"{suffixes} tokens"))
    for (left, width), words in counts:
        axes.text(left + width / 2, -0.3, words, ha="center", fontsize=10, color=_GREY)
    whole = f"whole prompts: {run.n_whole} tokens"
    saved = f"{texts + suffixes} computed for this text, {1 - share:.0%} less"
    axes.text(_OUTPUT[0] - 1, -0.3, whole, fontsize=10, color=_GREY)
    axes.text(_OUTPUT[0] - 1, -0.68, saved, fontsize=10, color=_GREY)
    axes.set_title(
        f"{n_rows} prompts of one text, sharing prefixes and passes: {texts + suffixes} tokens are computed in place of {run.n_whole}",
        loc="left", fontsize=13,
    )  # fmt: skip


def _box(axes: Any, column: tuple[float, float], y: float, height: float, words: str, colour: str, count: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, width = column
    style = "round,pad=0,rounding_size=0.12"
    patch = FancyBboxPatch(
        (left, y - height / 2), width, height, boxstyle=style, mutation_aspect=0.2, fc=f"{colour}12", ec=colour, linewidth=1.2
    )
    axes.add_patch(patch)
    axes.text(left + 0.7, y + height / 2 - 0.09, words.strip().replace("$", r"\$"), va="top", fontsize=10)
    axes.text(left + width - 0.7, y - height / 2 + 0.07, count, va="bottom", ha="right", fontsize=9.5, color=colour, weight="bold")


def _shorten(suffix: str) -> str:
    """The end of a suffix, where the word is asked for."""
    return suffix if len(suffix) <= _SUFFIX_CHARACTERS else f"… {suffix[-_SUFFIX_CHARACTERS:]}"


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1, "shrinkA": 1, "shrinkB": 1})


def _strip(axes: Any, vector: NDArray[np.float32], left: float, y: float, width: float, height: float, n_columns: int) -> None:
    """The first values of a vector as colours; a few dimensions are huge in every vector, so the scale is the quartiles'."""
    values = vector[: _N_VALUES // n_columns * n_columns].reshape(-1, n_columns)
    bound = 2 * float(np.quantile(np.abs(vector), 0.75))
    extent = (left, left + width, y - height / 2, y + height / 2)
    axes.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, extent=extent, aspect="auto", interpolation="nearest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default=_TEXT)
    parser.add_argument("--spec", type=Path, default=Path("conf/demo.yaml"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/workflow.png"))
    arguments = parser.parse_args()
    # The figure is about the mean itself, without what a spec may do to it afterwards.
    spec = dataclasses.replace(EmbeddingSpec.load(arguments.spec), normalize=False, truncate_dim=None, per_template=False, dtype="float32")
    run = run_text(spec, arguments.text)
    draw_run(run, arguments.out)
    print(f"{arguments.out}: {run.n_computed} tokens computed with the prefixes, {run.n_whole} in whole prompts")


if __name__ == "__main__":
    main()
