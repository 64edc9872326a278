"""Scores and cost of the built-in template sets and of a spec, side by side on the same texts, against `metaeol-separate`.

    python -m benchmarks.quality [--data ../shared/data] [--pairs 300] [--texts 500] [--spec conf/specs/smollm2-135m.yaml]
                                 [--templates FILE] [--sets metaeol,metaeol-fast] [--json FILE] [--write docs/quality.md]

With `--templates` the first line is a template set of your own, and the others are compared with it. The templates that the paper's
authors published stand in the file `evaluation.py` of their repository: written into a file in the form of `conf/templates`, they are
the baseline that readers of the paper know.

STS: Spearman's correlation x 100, one over all pairs of a set, mean over the sets. Transfer: accuracy of a logistic
regression. Tokens: computed a text of the STS sets, and their cost with the share of the model's layers that run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.publish import put_between_markers
from benchmarks.results import markdown_table
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.vectors.output import finish_vectors
from metaeol_udf.evaluation import StsTask, evaluate, load_tasks
from metaeol_udf.quality.report import make_report
from metaeol_udf.spec import VALUES, output_layers
from metaeol_udf.tuning.state_bank import tokens_per_text

SETS = ("metaeol-separate", "metaeol", "metaeol-fast", "metaeol-two", "prompteol")
STS, TRANSFER = ("stsb_dev", "stsb_train", "sts12", "sts14", "sickr"), ("mr", "subj", "trec")


def measure(spec: EmbeddingSpec, data: str, pairs: int, texts: int, values: Sequence[str] = ("float32",)) -> list[dict[str, Any]]:
    """Scores and cost of one spec, a mapping for each kind of `values`; no transfer tasks where `texts` is 0."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    known: dict[str, NDArray[np.float32]] = {}
    sts = load_tasks(data, STS, pairs)
    distinct = list(dict.fromkeys(text for task in sts if isinstance(task, StsTask) for text in task.texts))
    tokens = tokens_per_text(encoder, encoder.templates, distinct)
    n_layers = encoder.engine.n_layers
    depth = output_layers(spec.layer, n_layers)[-1] / n_layers
    tasks = [*sts, *(load_tasks(data, TRANSFER, texts) if texts else [])]

    def encode(asked: Sequence[str], kind: str) -> NDArray[np.float32]:
        known.update(zip(asked, encoder.encode(asked) if not known else [known[text] for text in asked], strict=True))
        return finish_vectors(np.stack([known[text] for text in asked]), EmbeddingSpec(model=spec.model, values=kind))

    reports = [(kind, make_report(evaluate(partial(encode, kind=kind), tasks, resamples=0))) for kind in values]
    return [_line(spec, kind, report, tokens, depth) for kind, report in reports]


def _line(spec: EmbeddingSpec, kind: str, report: dict[str, Any], tokens: float, depth: float) -> dict[str, Any]:
    return {
        "templates": spec.templates,
        "values": kind,
        "layer": list(spec.layer) if isinstance(spec.layer, tuple) else spec.layer,
        "sts": {name: task["spearman_all"] for name, task in report["sts"].items()},
        "sts_average": report["sts_average"],
        "transfer": {name: task["accuracy"] for name, task in report["transfer"].items()},
        "transfer_average": report["transfer_average"],
        "tokens_per_text": tokens,
        "layer_tokens_per_text": tokens * depth,
    }


def table(lines: dict[str, dict[str, Any]]) -> str:
    """The lines as Markdown; cost and gain are against the first one."""
    first = next(iter(lines.values()))
    rows = [
        {
            "": name,
            "layer": str(line["layer"]),
            **{task: f"{score:.1f}" for task, score in line["sts"].items()},
            "STS, mean": f"{line['sts_average']:.1f}",
            "gain": f"{line['sts_average'] - first['sts_average']:+.1f}",
            "tokens a text": f"{line['tokens_per_text']:.0f}",
            "cost": f"{line['layer_tokens_per_text'] / first['layer_tokens_per_text']:.0%}",
            **{task: f"{accuracy:.1f}" for task, accuracy in line["transfer"].items()},
            **({} if line["transfer_average"] is None else {"transfer, mean": f"{line['transfer_average']:.1f}"}),
        }
        for name, line in lines.items()
    ]
    return markdown_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--spec", type=Path, default=Path("conf/specs/smollm2-135m.yaml"))
    parser.add_argument("--pairs", type=int, default=300, help="of each STS set")
    parser.add_argument("--texts", type=int, default=500, help="of each transfer task, for the first two sets and the spec; 0: none")
    parser.add_argument("--templates", type=Path, metavar="FILE", help="a template set that all lines are compared with")
    parser.add_argument("--sets", default=",".join(SETS), help="built-in template sets, with commas between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    plain = EmbeddingSpec(model=arguments.model)
    lines = {}
    own = {} if arguments.templates is None else {f"`{TemplateSet.load(arguments.templates).name}`, from a file": str(arguments.templates)}
    built_in = arguments.sets.split(",")
    sets = own | {name: name for name in built_in}
    for name, templates in sets.items():
        texts = arguments.texts if name in [*own, *built_in[:2]] else 0
        (lines[name],) = measure(dataclasses.replace(plain, templates=templates), arguments.data, arguments.pairs, texts)
        print(f"{name}: {lines[name]['sts_average']:.2f}", flush=True)
    spec = dataclasses.replace(EmbeddingSpec.load(arguments.spec), model=arguments.model)
    for kind, line in zip(VALUES, measure(spec, arguments.data, arguments.pairs, arguments.texts, VALUES), strict=True):
        lines[arguments.spec.name if kind == "float32" else f"the same, {kind}"] = line
    file = "" if arguments.templates is None else " --templates FILE"
    chosen = "" if built_in == list(SETS) else f" --sets {arguments.sets}"
    command = f"python -m benchmarks.quality --pairs {arguments.pairs} --texts {arguments.texts}{file}{chosen}"
    drawn = "at most so many pairs of each STS set and texts of each transfer task, drawn at random; cost and gain against the first line."
    text = f"`{command}`, {date.today()}: {drawn}\n\n{table(lines)}"
    print(text)
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(
            put_between_markers(page, {"quality" if arguments.templates is None else "quality-own": text}), encoding="utf-8"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
