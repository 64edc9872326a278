"""The page as text, and as a file that is whole or not there."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

import metaeol_udf
from metaeol_udf.errors import InputError
from metaeol_udf.files import parse_json, replace_file
from metaeol_udf.formatting import format_number
from metaeol_udf.report_page import page_view
from metaeol_udf.report_page.report_fields import find_wrong_field
from metaeol_udf.report_page.vector_map import MIN_ROWS, VectorSample, map_vectors


def render_page(
    report: Mapping[str, Any],
    title: str,
    settings: Mapping[str, Any] | None = None,
    sample: VectorSample | None = None,
    why_no_map: str = "",
) -> str:
    """Lay a report out as one HTML page, which fetches nothing and holds no text of the table.

    Every value is escaped: keys and names of columns may hold anything.

    Args:
        report: As `Report.as_dict` gives it, or as its JSON file holds it.
        title: The table.
        settings: Of the run, nested; None leaves the section out.
        sample: Rows for the map; None leaves it out.
        why_no_map: Said in place of the map.
    """
    script = _file("page.js")
    tone, status, sentence = page_view.STATUS.get(report["status"], ("warn", report["status"], ""))
    has_map = sample is not None and len(sample.names) >= MIN_ROWS
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _file("page.html")
    )
    return template.render(
        title=title,
        report=report,
        style=_file("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tone=tone,
        status=status,
        sentence=sentence,
        time=page_view.run_time(report["run_id"]),
        tiles=page_view.tiles(report),
        row_parts=page_view.row_parts(report),
        token_parts=page_view.token_parts(report),
        phases=page_view.phases(report),
        failures=page_view.failures(report),
        rates=page_view.rates(report),
        map=_map_view(sample) if sample is not None and has_map else None,
        why_no_map=why_no_map or "Fewer than three rows have a vector.",
        migration=page_view.flattened(report.get("migration") or {}),
        quality=page_view.flattened(report.get("quality") or {}),
        settings=page_view.flattened(settings or {}),
        about=page_view.about(report),
        versions=page_view.flattened(report.get("delta_versions") or {}),
        package_version=metaeol_udf.__version__,
    )


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a JSON run report.

    Raises:
        InputError: The file cannot be read, is no run report, or a field has another type; the message names the file and the field.
    """
    try:
        found = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the run report {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"cannot read the run report {path}: {error}") from None
    wrong = find_wrong_field(found)
    if wrong is not None:
        raise InputError(f"{path} is no run report: {wrong}")
    return dict(found)


def write_page(content: str, path: str | Path) -> None:
    """Write a page as `replace_file` does, for its owner alone, since it names keys; what UTF-8 cannot hold becomes a question mark."""
    replace_file(path, content.encode("utf-8", errors="replace"), private=True)


def _map_view(sample: VectorSample) -> dict[str, Any]:
    """The map in the units of the template: a square of 1000, and what the script needs to tell of a row."""
    found = map_vectors(sample.vectors, sample.texts)
    names = list(sample.names)
    near = [list(zip(*row, strict=True)) for row in zip(found.neighbours.tolist(), found.cosines.round(4).tolist(), strict=True)]
    across, upright = (found.points[:, axis] for axis in (0, 1))
    scale = 920 / float(np.ptp(across) or 1.0)  # the plane keeps its proportions; what is flat gets some room
    height = min(1000.0, max(520.0, 80 + scale * float(np.ptp(upright))))
    scale = min(scale, (height - 80) / float(np.ptp(upright) or 1.0))
    x, y = 500 + scale * (across - _middle(across)), height / 2 - scale * (upright - _middle(upright))
    return {
        "height": round(height),
        "points": [{"x": round(float(x[row]), 1), "y": round(float(y[row]), 1), "name": name} for row, name in enumerate(names)],
        "pairs": [{"first": names[a], "second": names[b], "row": a, "cosine": f"{cosine:.4f}"} for a, b, cosine in found.pairs],
        "explained": [f"{100 * share:.1f} %" for share in found.explained],
        "n_repeated": format_number(found.n_repeated),
        "mean_cosine": f"{found.mean_cosine:.3f}",
        "n": format_number(len(names)),
        "n_table": format_number(sample.n_rows_in_table),
        "is_whole_table": sample.is_whole_table,
        "dim": format_number(sample.vectors.shape[1]),
        "data": {"names": names, "near": near},
    }


def _middle(values: NDArray[np.float64]) -> float:
    return float(values.min() + values.max()) / 2


def _file(name: str) -> str:
    return (resources.files("metaeol_udf.report_page") / name).read_text(encoding="utf-8")
