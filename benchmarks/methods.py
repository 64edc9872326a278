"""Do token prepending and contrastive steering earn their place? Scores on sentence pairs, with what they cost.

    python -m benchmarks.methods --data ../shared/data --sets stsb_dev,sickr,sts14 --pairs 150 --templates prompteol,metaeol

Layer ranges, steered blocks, factors and auxiliary prompts, output layer and mean removal are chosen on one half of the pairs; what is
printed was scored on the other. The plain prompts are given the same choice of layer and mean removal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from benchmarks.method_cells import Candidate, Cell, best, make_cells, make_row
from benchmarks.method_passes import MethodPasses, Prepending, Rule, Steering
from benchmarks.method_prompts import AUXILIARY, Ids, placeholder_ids, prepended_tokens, prompt_ids, shared_tokens, whole_tokens
from benchmarks.results import FOLDER, Row, show, write_results
from benchmarks.sts_pairs import PairSample, load_pairs
from metaeol_udf import TemplateSet
from metaeol_udf.prompts import PromptTemplate
from metaeol_udf.prompts.tokenizer import PromptTokenizer

Embedded = tuple[Candidate, Tensor]  # with the mean over templates, shape ``(n_texts, n_layers, hidden_size)``


@dataclass(frozen=True)
class Setting:
    """A template set on a model, and the grids to try."""

    passes: MethodPasses
    tokenizer: PromptTokenizer
    texts: Sequence[str]
    templates: TemplateSet
    ranges: Sequence[Prepending]
    steerings: Sequence[Steering]
    auxiliaries: Sequence[str]

    def candidate(self, method: str, parameters: str, tokens: float, whole_tokens: float) -> Candidate:
        """Name a way to embed with this template set."""
        return Candidate(self.templates.name, method, parameters, tokens, whole_tokens)


def plain(setting: Setting) -> Iterator[Embedded]:
    """The prompts as they are."""
    prompts = prompt_ids(setting.templates, setting.tokenizer, setting.texts)
    candidate = setting.candidate("plain", "", shared_tokens(prompts), whole_tokens(prompts))
    yield candidate, mean_states(setting.passes.plain, prompts)


def prepended(setting: Setting) -> Iterator[Embedded]:
    """Token prepending in each range of blocks."""
    prompts = placeholder_ids(setting.templates, setting.tokenizer, setting.texts)
    for blocks in setting.ranges:
        name = f"before blocks {blocks.start} to {blocks.stop - 1}"
        candidate = setting.candidate("prepending", name, prepended_tokens(prompts), whole_tokens(prompts))
        yield candidate, mean_states(partial(setting.passes.prepended, prepending=blocks), prompts)


def steered(setting: Setting) -> Iterator[Embedded]:
    """Contrastive steering with each auxiliary prompt in each way; and the control that has none, once."""
    prompts = prompt_ids(setting.templates, setting.tokenizer, setting.texts)
    costs = shared_tokens(prompts), whole_tokens(prompts)
    for name in setting.auxiliaries:
        auxiliary = TemplateSet(name, setting.templates.text_cleanup, (PromptTemplate("irrelevant", AUXILIARY[name]),))
        ids = prompt_ids(auxiliary, setting.tokenizer, setting.texts)
        ways = [way for way in setting.steerings if way.rule is not Rule.SHRUNK or name == setting.auxiliaries[0]]
        blocks = sorted({way.block for way in ways})
        values = setting.passes.attention_outputs(ids[0], blocks)
        of_ways = [values[:, blocks.index(way.block)] for way in ways]
        states = mean_states(partial(setting.passes.steered, auxiliary=of_ways, steerings=ways), prompts)
        for way, found in zip(ways, states, strict=True):
            part = 0.0 if way.rule is Rule.SHRUNK else (way.block + 1) / setting.passes.n_blocks
            tokens = [cost + part * more for cost, more in zip(costs, (shared_tokens(ids), whole_tokens(ids)), strict=True)]
            method = "attention shrunk" if way.rule is Rule.SHRUNK else "steering"
            yield setting.candidate(method, describe(way, name), *tokens), found


def describe(way: Steering, auxiliary: str) -> str:
    """A steering's parameters, for tables."""
    if way.rule is Rule.SHRUNK:
        return f"block {way.block}, a = {way.factor}"
    size = "norm restored" if way.rule is Rule.RESTORED else f"a = {way.factor}"
    return f"block {way.block}, {size}, auxiliary prompt «{auxiliary}»"


METHODS: dict[str, Callable[[Setting], Iterator[Embedded]]] = {"plain": plain, "prepended": prepended, "steered": steered}


def mean_states(run: Callable[[Ids], Tensor], prompts: Sequence[Ids]) -> Tensor:
    """Mean over templates of what `run` gives for each template's prompts."""
    total = run(prompts[0])
    for of_template in prompts[1:]:
        total = total + run(of_template)  # not in place: these are inference tensors
    return total / len(prompts)


def score(setting: Setting, sample: PairSample, methods: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Run methods on a template set.

    Returns:
        One row a method, at its chosen parameters, after one for the plain prompts at the last layer; and one row a cell.
    """
    cells: dict[str, list[Cell]] = {}
    for name in methods:
        started = time.monotonic()
        for candidate, states in METHODS[name](setting):
            found = make_cells(sample, candidate, states.numpy(), setting.passes.layers)
            cells.setdefault(candidate.method, []).extend(found)
        print(f"{setting.templates.name}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    base = best(cells["plain"])
    raw = next(cell for cell in cells["plain"] if cell.layer == setting.passes.n_blocks and not cell.subtracts_mean)
    rows = [make_row(sample, raw, base)]
    rows += [make_row(sample, best(found), None if name == "plain" else base) for name, found in cells.items()]
    return rows, [make_row(sample, cell, None) for found in cells.values() for cell in found]


def make_setting(arguments: argparse.Namespace, name: str, sample: PairSample, passes: MethodPasses) -> Setting:
    """The grids that the command line asks for."""
    ranges = [Prepending(*map(int, part.split("-"))) for part in arguments.ranges.split(",")]
    blocks = [int(block) for block in arguments.blocks.split(",")]
    factors = [float(factor) for factor in arguments.factors.split(",")]
    steerings = [Steering(block, rule, factor) for block in blocks for factor in factors for rule in (Rule.SCALED, Rule.SHRUNK)]
    steerings = [way for way in steerings if way.rule is not Rule.SHRUNK or way.factor != 1.0]  # that one changes nothing
    steerings += [Steering(block, Rule.RESTORED) for block in blocks]
    tokenizer = PromptTokenizer(AutoTokenizer.from_pretrained(arguments.model))
    return Setting(passes, tokenizer, sample.texts, TemplateSet.load(name), ranges, steerings, arguments.auxiliary.split(","))


def load_passes(arguments: argparse.Namespace) -> MethodPasses:
    """The model, with the layers that are asked for and the last."""
    model = AutoModel.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).eval()
    layers = dict.fromkeys(int(layer) % (len(model.layers) + 1) for layer in [*arguments.layers.split(","), "-1"])
    return MethodPasses(model, list(layers))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every comparison on pairs takes."""
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", default="stsb_dev,sickr,sts14")
    parser.add_argument("--pairs", type=int, default=150, help="of each set, half of them to choose with")
    parser.add_argument("--layers", default="24,26,28,-1")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--templates", default="prompteol")
    parser.add_argument("--methods", default=",".join(METHODS), help="plain is always run")
    parser.add_argument(
        "--ranges", default="1-3,1-5,1-7,1-10,1-15,1-30,4-10", help="blocks with token prepending: first, and past the last"
    )
    parser.add_argument("--blocks", default="2,4,6,9,13", help="blocks that are steered")
    parser.add_argument("--factors", default="0.25,0.5,1.0", help="of steering")
    parser.add_argument("--auxiliary", default=",".join(AUXILIARY))
    parser.add_argument("--json", type=Path, default=FOLDER / "methods.json")
    arguments = parser.parse_args()
    methods = ["plain", *(name for name in arguments.methods.split(",") if name != "plain")]
    if set(methods) - set(METHODS):
        parser.error(f"--methods: known are {', '.join(METHODS)}")
    sample, passes = load_pairs(arguments.data, arguments.sets.split(","), arguments.pairs), load_passes(arguments)
    rows: list[Row] = []
    cells: list[Row] = []
    for name in arguments.templates.split(","):
        found, all_found = score(make_setting(arguments, name, sample, passes), sample, methods)
        rows, cells = rows + found, cells + all_found
    show(rows)
    write_results(arguments.json, rows, cells=cells)


if __name__ == "__main__":
    main()
