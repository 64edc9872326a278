"""Makes figures with matplotlib, an optional package that is imported only when a figure is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeol_udf.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREEN, GREY, ORANGE = "#2b6cb0", "#2f855a", "#718096", "#c05621"
SUFFIXES = (".svg", ".png", ".pdf")


def check_matplotlib() -> None:
    """Check that matplotlib can draw, before a model is loaded in vain.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("a figure needs matplotlib, which is not installed: pip install 'metaeol-udf[plots]'") from None
    matplotlib.rcParams["svg.hashsalt"] = "metaeol"  # the same figure is the same file


def check_plot(path: Path) -> None:
    """Check that a figure can be written to a path, before texts are embedded in vain.

    Raises:
        ConfigError: matplotlib is not installed, the path's ending is not in `SUFFIXES`, or the path's folder does not exist.
    """
    check_matplotlib()
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches. It belongs to no window, so nothing has to be closed."""
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def hide_frame(axes: Any, *sides: str) -> None:
    """Hide the top and the right side of the frame around axes, and further sides."""
    axes.spines[["top", "right", *sides]].set_visible(False)


def save_figure(figure: Figure, path: Path, dpi: float | None = None) -> None:
    """Save a figure in the format that the path's ending names.

    Raises:
        ConfigError: matplotlib does not know the format.
        EnvironmentFault: The file cannot be written.
    """
    settings: dict[str, Any] = {} if dpi is None else {"dpi": dpi}
    if path.suffix == ".svg":
        settings["metadata"] = {"Date": None}  # the same figure is the same file
    try:
        figure.savefig(path, **settings)
    except ValueError as error:
        raise ConfigError(f"cannot draw {path}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot write the figure {path}: {error.strerror or error}") from None
