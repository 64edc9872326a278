"""A job of one million to ten billion rows, on paper: what it costs and what changes in its configuration.

    python -m benchmarks.scale --measure [--rows 30000,120000] [--master local[2]]   # writes benchmarks/scale.json
    python -m benchmarks.scale [--write docs/scale.md]                              # simulates from it

`--measure` runs the job's own selection, journal, MERGE and verification on this machine with stand-in vectors. The
simulation takes those costs, tokens a text as `metaeol estimate` counted them, and a GPU's rate, which is assumed and
derived in the output.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.scale_model import Cluster, Table, best_wave_rows, plan

MEASURED = Path(__file__).with_name("scale.json")
BEGIN, END = "<!-- made by `python -m benchmarks.scale --write docs/scale.md`: begin -->", "<!-- end -->"
_PEAK_FLOPS = 989e12  # of an H100 SXM, bfloat16 without sparsity, from NVIDIA's data sheet
_HEAP_PER_LOG_BYTE = 5  # of a file's entry in the driver's heap over its JSON; assumed


@dataclass(frozen=True)
class Model:
    """A model's shape, and the share of an H100's peak that its linear layers are assumed to reach."""

    name: str
    layer_parameters: float
    dim: int
    utilisation: float

    @property
    def tokens_per_second(self) -> float:
        """Of one GPU: two operations a parameter and token."""
        return _PEAK_FLOPS * self.utilisation / (2 * self.layer_parameters)


MODELS = (Model("8B (Llama 3.1's shape)", 6.98e9, 4096, 0.40), Model("135M (SmolLM2)", 106e6, 576, 0.10))
SCALES = ((1_000_000, 1), (100_000_000, 32), (10_000_000_000, 512))


def scale_rows(measured: dict[str, Any], model: Model) -> list[dict[str, object]]:
    """A line for each scale: the default `wave_rows`, then the one that keeps the GPUs busy."""
    lines = []
    for rows, gpus in SCALES:
        table = Table(rows, measured["tokens"]["per_text"], measured["tokens"]["spread"], model.dim)
        cluster = Cluster(gpus, model.tokens_per_second)
        chosen = best_wave_rows(table, cluster, measured["costs"])
        for wave_rows in dict.fromkeys((50_000, chosen)):
            lines.append(_line(table, cluster, wave_rows, plan(table, cluster, wave_rows, measured["costs"])))
    return lines


def _line(table: Table, cluster: Cluster, wave_rows: int, planned: dict[str, Any]) -> dict[str, object]:
    return {
        "rows": f"{table.rows:,}",
        "GPUs": cluster.gpus,
        "`wave_rows`": f"{wave_rows:,}",
        "waves": f"{planned['waves']:,}",
        "tasks a wave": f"{planned['tasks']:,}",
        "s a wave": f"{planned['wave_s']:,.1f}",
        "GPUs busy": f"{planned['used_share']:.0%}",
        "embed h": f"{planned['embed_hours']:,.2f}",
        "GPU h a kill costs": f"{planned['gpu_hours_lost_by_a_kill']:,.2f}",
        "journal": size(planned["journal_bytes"]),
        "files": f"{planned['journal_files']:,}",
        "a file": size(planned["file_bytes"]),
        "driver heap for them": size(planned["log_bytes"] * _HEAP_PER_LOG_BYTE),
    }


def phase_rows(measured: dict[str, Any], model: Model) -> list[dict[str, object]]:
    """What stands beside the embedding, for each scale."""
    lines: list[dict[str, object]] = []
    for rows, gpus in SCALES:
        table = Table(rows, measured["tokens"]["per_text"], measured["tokens"]["spread"], model.dim)
        cluster = Cluster(gpus, model.tokens_per_second)
        planned = plan(table, cluster, best_wave_rows(table, cluster, measured["costs"]), measured["costs"])
        names = ("select", "merge_target", "merge_in_place", "verify")
        lines.append(
            {
                "rows": f"{rows:,}",
                "GPUs": gpus,
                "cores": gpus * cluster.cores,
                **{f"{name.replace('_', ' ')} h": f"{planned[f'{name}_hours']:,.2f}" for name in names},
                "shuffled by a MERGE, each executor": size(2 * planned["journal_bytes"] / gpus),
                "partitions of 200 MB": f"{max(1, round(planned['journal_bytes'] / 2e8)):,}",
            }
        )
    return lines


def wave_rows_lines(measured: dict[str, Any], model: Model, rows: int, gpus: int) -> list[dict[str, object]]:
    """One scale, many settings of `wave_rows`; and the same with ten times as many lost executors."""
    table = Table(rows, measured["tokens"]["per_text"], measured["tokens"]["spread"], model.dim)
    cluster = Cluster(gpus, model.tokens_per_second)
    spot = replace(cluster, losses_per_hour=cluster.losses_per_hour * 50)
    lines: list[dict[str, object]] = []
    for wave_rows in (50_000, 500_000, 5_000_000, 50_000_000, 500_000_000):
        steady, lossy = (plan(table, one, wave_rows, measured["costs"], samples=20) for one in (cluster, spot))
        lines.append(
            {
                "`wave_rows`": f"{wave_rows:,}",
                "s a wave": f"{steady['wave_s']:,.1f}",
                "GPUs busy": f"{steady['used_share']:.0%}",
                "embed h": f"{steady['embed_hours']:,.1f}",
                "embed h, spot": f"{lossy['embed_hours']:,.1f}",
                "files": f"{steady['journal_files']:,}",
            }
        )
    return lines


def size(n_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} PB"


def markdown(lines: Sequence[dict[str, object]]) -> str:
    """Lines as a Markdown table."""
    columns = list(lines[0])
    body = ["| " + " | ".join(str(line[column]) for column in columns) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body])


def report(measured: dict[str, Any]) -> str:
    """All tables, and the arithmetic of the assumed rates."""
    costs, tokens = measured["costs"], measured["tokens"]
    parts = [
        f"Measured by `{measured['command']}` on {measured['machine']}, {measured['date']}. {tokens['per_text']:.0f} tokens a text "
        f"({tokens['source']}), spread {tokens['spread']:.2f}.",
        markdown(
            [
                {
                    "phase": phase.replace("_", " "),
                    "fixed s": f"{line['fixed_s']:.2f}",
                    "ms a row": f"{line['row_s'] * 1000:.4f}",
                    **{f"s for {rows:,} rows": f"{seconds:.1f}" for rows, seconds in zip(costs["rows"], line["seconds"], strict=True)},
                }
                for phase, line in costs["phases"].items()
            ]
        ),
        f"A journal row of {costs['dim']} dimensions takes {costs['sizes']['journal_row_bytes']:,.0f} bytes on disk, a row of a target "
        f"of its own {costs['sizes']['target_row_bytes']:,.0f}, a data file's entry in the log {costs['sizes']['log_file_bytes']:,.0f}.",
    ]
    for model in MODELS:
        parts += [
            f"### {model.name}, {model.dim} dimensions",
            f"Assumed: one H100 computes {_PEAK_FLOPS / 1e12:.0f} TFLOP/s x {model.utilisation:.0%} / (2 x {model.layer_parameters:.3g}) = "
            f"{model.tokens_per_second:,.0f} tokens a second.",
            markdown(scale_rows(measured, model)),
            "Beside the embedding, with the measured costs a row and core spread over the cluster's cores:",
            markdown(phase_rows(measured, model)),
        ]
    rows, gpus = SCALES[-1]
    parts += [
        f"### `wave_rows` at {rows:,} rows on {gpus} GPUs, {MODELS[0].name}",
        markdown(wave_rows_lines(measured, MODELS[0], rows, gpus)),
    ]
    return "\n\n".join(parts)


def write_between_markers(path: Path, text: str) -> None:
    """Replace what an earlier run wrote into a page."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure Delta's costs here and keep them")
    parser.add_argument("--rows", default="30000,120000", help="two table sizes for --measure")
    parser.add_argument("--text-characters", type=int, default=600)
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="whose tokenizer counts")
    parser.add_argument("--texts", type=int, default=2000, help="whose tokens are counted")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--date", default="", help="of the measurement, for the page")
    parser.add_argument("--note", default="", help="to put after the machine's name, such as ' that did other work'")
    parser.add_argument("--costs", type=Path, default=MEASURED)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        from benchmarks.scale_costs import measure, measure_tokens

        small, large = (int(part) for part in arguments.rows.split(","))
        kept = json.loads(arguments.costs.read_text()) if arguments.costs.is_file() else {}
        kept["costs"] = measure((small, large), arguments.text_characters, Path(arguments.model), arguments.master)
        kept["tokens"] = measure_tokens(arguments.model, arguments.texts)
        kept["machine"] = f"{kept['costs']['slots']} cores of {platform.machine()}{arguments.note}"
        kept["command"] = f"python -m benchmarks.scale --measure --rows {arguments.rows}"
        kept["date"] = arguments.date or kept.get("date", "")
        arguments.costs.write_text(json.dumps(kept, indent=2) + "\n")
    text = report(json.loads(arguments.costs.read_text()))
    if arguments.write:
        write_between_markers(arguments.write, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
