"""Figures of the results. Each title says what the figure shows; each takes rows as benchmarks write them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Row

_COLOURS = {"metaeol-separate": "#b0413e", "metaeol": "#2b6cb0", "metaeol-fast": "#2f855a"}
_GREY = "#7a7a7a"


def import_pyplot() -> Any:
    """matplotlib, drawing to files.

    Raises:
        RuntimeError: It is not installed.
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
    """Milliseconds a text against its tokens, a line a template set."""
    found = [row for row in rows if row["kind"] == "length"]
    longest = max(row["tokens"] for row in found)
    at_longest = {row["templates"]: row["ms_per_text"] for row in found if row["tokens"] == longest}
    gain = at_longest["metaeol-separate"] / at_longest["metaeol-fast"]

    def draw(axes: Any) -> None:
        _lines(axes, found, "tokens")
        axes.set(xscale="log", yscale="log", xlabel="tokens of a text", ylabel="milliseconds a text")
        ticks = sorted({row["tokens"] for row in found})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        _plain_ticks(axes)

    _figure(path, f"Cost follows the tokens computed: sharing prefixes makes\n{longest}-token texts {gain:.1f} times cheaper", draw)


def plot_templates(rows: Sequence[Row], path: Path) -> None:
    """Milliseconds a text against the number of templates, a line a template set."""
    found = [row for row in rows if row["kind"] == "templates"]
    most = max(row["n_templates"] for row in found)
    cost = {(row["templates"], row["n_templates"]): row["ms_per_text"] for row in found}
    least = min(n for _, n in cost)
    factors = {name: cost[name, most] / cost[name, least] for name in _COLOURS}

    def draw(axes: Any) -> None:
        _lines(axes, found, "n_templates")
        axes.set(xlabel="templates", ylabel="milliseconds a text", ylim=(0, None), xticks=sorted({row["n_templates"] for row in found}))

    title = f"{most} templates cost {factors['metaeol-separate']:.1f} times as much as one with separate prefixes,\n"
    _figure(path, title + f"{factors['metaeol-fast']:.1f} times with one shared prefix", draw)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Seconds against rows, with the line of exact proportion."""
    found = [row for row in rows if row["kind"] == "rows"]
    last = found[-1]

    def draw(axes: Any) -> None:
        xs, ys = [row["rows"] for row in found], [row["seconds"] for row in found]
        axes.plot(xs, [ys[0] * x / xs[0] for x in xs], color=_GREY, linestyle="--", linewidth=1)
        axes.plot(xs, ys, color=_COLOURS["metaeol"], marker="o")
        axes.annotate("proportional", (xs[1], ys[0] * xs[1] / xs[0]), textcoords="offset points", xytext=(-72, 8), color=_GREY)
        axes.annotate("measured", (xs[-1], ys[-1]), textcoords="offset points", xytext=(-20, -22), color=_COLOURS["metaeol"])
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds")
        axes.set_xticks(xs, [str(x) for x in xs])
        _plain_ticks(axes)

    _figure(path, f"{last['rows_factor']:.0f} times the rows take {last['time_factor']:.1f} times as long", draw)


def plot_partitions(rows: Sequence[Row], path: Path) -> None:
    """Seconds against partitions."""
    found = [row for row in rows if row["kind"] == "partitions"]
    plain = [row for row in found if not row.get("with_long_text")]
    best = min(plain, key=lambda row: row["seconds"])

    def draw(axes: Any) -> None:
        places = range(len(found))
        colours = [_COLOURS["metaeol-separate"] if row.get("with_long_text") else _COLOURS["metaeol"] for row in found]
        bars = axes.bar(places, [row["seconds"] for row in found], color=colours, width=0.6)
        axes.bar_label(bars, [f"{row['seconds']:.1f} s" for row in found], padding=2)
        axes.set_xticks(
            places,
            [
                f"{row['partitions']}\n+ a text of 200,000\ncharacters" if row.get("with_long_text") else str(row["partitions"])
                for row in found
            ],
        )
        axes.set(xlabel="partitions", ylabel=f"seconds for {plain[0]['rows']} rows")
        axes.margins(y=0.12)

    factor = plain[0]["seconds"] / best["seconds"]
    title = f"{best['partitions']} partitions are {factor:.1f} times as quick as one"
    with_long = next((row for row in found if row.get("with_long_text")), None)
    if with_long is not None:
        without = next(row for row in plain if row["partitions"] == with_long["partitions"])
        title += f";\na text of 200,000 characters adds {with_long['seconds'] - without['seconds']:.1f} s"
    _figure(path, title, draw)


def plot_shares(results: dict[str, Sequence[Row]], path: Path) -> None:
    """Share of the rate that matrix products alone reach, by text set and dtype, for separate prefixes."""
    found = [
        (name, row)
        for name, rows in results.items()
        for row in rows
        if row.get("share_of_gemm_rate") and row["templates"] == "metaeol-separate"
    ]
    names, kinds = list(dict.fromkeys(name for name, _ in found)), list(dict.fromkeys(row["contender"] for _, row in found))
    share = {(name, row["contender"]): row["share_of_gemm_rate"] for name, row in found}
    middle = statistics.median(share.values())

    def draw(axes: Any) -> None:
        width = 0.8 / len(kinds)
        for i, kind in enumerate(kinds):
            places = [place + (i - (len(kinds) - 1) / 2) * width for place in range(len(names))]
            values = [share.get((name, kind), 0.0) for name in names]
            bars = axes.bar(places, values, width * 0.92, color=list(_COLOURS.values())[i], label=kind)
            axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=2, fontsize=8)
        axes.axhline(1.0, color=_GREY, linestyle="--", linewidth=1)
        axes.set_xticks(range(len(names)), [name if not name.isdecimal() else f"{name} tokens" for name in names])
        axes.set(xlabel="texts", ylabel="share of the GEMM rate", ylim=(0, 1.25))
        axes.legend(frameon=False, loc="upper left", ncols=len(kinds))

    _figure(path, f"The encoder reaches {middle:.0%} (median) of what the model's\nmatrix products reach by themselves", draw)


def _plain_ticks(axes: Any) -> None:
    """Numbers as people write them, on an axis of logarithms."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _lines(axes: Any, rows: Sequence[Row], x: str) -> None:
    """A line a template set, named at its end."""
    for name, colour in _COLOURS.items():
        points = sorted((row[x], row["ms_per_text"]) for row in rows if row["templates"] == name)
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4)
        axes.annotate(name, points[-1], textcoords="offset points", xytext=(8, -3), color=colour, annotation_clip=False)


def _figure(path: Path, title: str, draw: Callable[[Any], None]) -> None:
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    draw(axes)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
