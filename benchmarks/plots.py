"""Figures of the results. Each title says what the figure shows; each takes rows as benchmarks write them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results import Row

_COLOURS = {"metaeol-separate": "#b0413e", "metaeol": "#2b6cb0", "metaeol-fast": "#2f855a"}
_GREY = "#7a7a7a"


def import_pyplot() -> Any:
    """Import pyplot, drawing to files.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise RuntimeError("figures need matplotlib: pip install matplotlib (tables are made without it)") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "metaeol"  # the same figure is the same file
    import matplotlib.pyplot as plt

    return plt


def plot_lengths(rows: Sequence[Row], path: Path) -> None:
    """Plot milliseconds a text against text lengths in tokens, a line a template set."""
    longest = max(row["tokens"] for row in rows)
    at_longest = {row["templates"]: row["ms_per_text"] for row in rows if row["tokens"] == longest}
    gain = at_longest["metaeol-separate"] / at_longest["metaeol-fast"]
    with _axes(path, f"Cost follows the tokens computed: sharing prefixes makes\n{longest}-token texts {gain:.1f} times cheaper") as axes:
        _lines(axes, rows, "tokens")
        axes.set(xlabel="tokens of a text", ylabel="milliseconds a text")
        _logarithms(axes, sorted({row["tokens"] for row in rows}))


def plot_templates(rows: Sequence[Row], path: Path) -> None:
    """Plot milliseconds a text against the number of templates, a line a template set."""
    most, least = max(row["n_templates"] for row in rows), min(row["n_templates"] for row in rows)
    cost = {(row["templates"], row["n_templates"]): row["ms_per_text"] for row in rows}
    separate, fast = (cost[name, most] / cost[name, least] for name in ("metaeol-separate", "metaeol-fast"))
    title = f"{most} templates cost {separate:.1f} times as much as one with separate prefixes,\n{fast:.1f} times with one shared prefix"
    with _axes(path, title) as axes:
        _lines(axes, rows, "n_templates")
        axes.set(xlabel="templates", ylabel="milliseconds a text", ylim=(0, None), xticks=sorted({row["n_templates"] for row in rows}))


def plot_partitions(rows: Sequence[Row], path: Path) -> None:
    """Plot seconds against partitions."""
    plain = {row["partitions"]: row["seconds"] for row in rows if not row.get("with_long_text")}
    best = min(plain, key=lambda partitions: plain[partitions])
    title = f"{best} partitions are {next(iter(plain.values())) / plain[best]:.1f} times as quick as one"
    labels, colours = [], []
    for row in rows:
        is_long = row.get("with_long_text")
        labels.append(f"{row['partitions']}\n+ a text of 200,000\ncharacters" if is_long else str(row["partitions"]))
        colours.append(_COLOURS["metaeol-separate" if is_long else "metaeol"])
        title += f";\na text of 200,000 characters adds {row['seconds'] - plain[row['partitions']]:.1f} s" if is_long else ""
    with _axes(path, title) as axes:
        bars = axes.bar(range(len(rows)), [row["seconds"] for row in rows], color=colours, width=0.6)
        axes.bar_label(bars, [f"{row['seconds']:.1f} s" for row in rows], padding=2)
        axes.set_xticks(range(len(rows)), labels)
        axes.set(xlabel="partitions", ylabel=f"seconds for {rows[0]['rows']} rows")
        axes.margins(y=0.12)


BY_KIND = {"length": plot_lengths, "templates": plot_templates, "partitions": plot_partitions}


def plot_shares(results: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Plot shares of the rate that matrix products alone reach, by text set and dtype, for separate prefixes."""
    share = {
        (name, row["contender"]): row["share_of_gemm_rate"]
        for name, rows in results.items()
        for row in rows
        if row.get("share_of_gemm_rate") and row["templates"] == "metaeol-separate"
    }
    names, kinds = (list(dict.fromkeys(found)) for found in zip(*share, strict=True))
    middle, width = statistics.median(share.values()), 0.8 / len(kinds)
    with _axes(path, f"The encoder reaches {middle:.0%} (median) of what the model's\nmatrix products reach by themselves") as axes:
        for i, (kind, colour) in enumerate(zip(kinds, _COLOURS.values(), strict=False)):
            places = [place + (i - (len(kinds) - 1) / 2) * width for place in range(len(names))]
            values = [share.get((name, kind), 0.0) for name in names]
            bars = axes.bar(places, values, width * 0.92, color=colour, label=kind)
            axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=2, fontsize=8)
        axes.axhline(1.0, color=_GREY, linestyle="--", linewidth=1)
        axes.set_xticks(range(len(names)), [name if not name.isdecimal() else f"{name} tokens" for name in names])
        axes.set(xlabel="texts", ylabel="share of the GEMM rate", ylim=(0, 1.25))
        axes.legend(frameon=False, loc="upper left", ncols=len(kinds))


def _logarithms(axes: Any, ticks: Sequence[int]) -> None:
    """Make both axes logarithms, with numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _lines(axes: Any, rows: Sequence[Row], x: str) -> None:
    """Draw a line a template set, named at its end."""
    for name, colour in _COLOURS.items():
        points = sorted((row[x], row["ms_per_text"]) for row in rows if row["templates"] == name)
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4)
        axes.annotate(name, points[-1], textcoords="offset points", xytext=(8, -3), color=colour, annotation_clip=False)


@contextmanager
def _axes(path: Path, title: str) -> Iterator[Any]:
    """Give axes to draw on, and save them as a figure."""
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    yield axes
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
