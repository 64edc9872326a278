"""Single prompts that ask for thinking in steps or give background knowledge, and the mean of one of each.

    python -m benchmarks.wordings --data ../shared/data --sets stsb_dev,sickr,sts14 --pairs 150

Wording, output layer and mean removal are chosen on one half of the pairs; what is printed was scored on the other.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.method_cells import Candidate, Cell, best, make_cells, make_row
from benchmarks.method_prompts import Ids, prompt_ids, shared_tokens, whole_tokens
from benchmarks.methods import add_common_arguments, load_passes, mean_states
from benchmarks.results import FOLDER, show, write_results
from benchmarks.sts_pairs import load_pairs
from metaeol_udf import TemplateSet
from metaeol_udf.prompts import PromptTemplate
from metaeol_udf.prompts.tokenizer import PromptTokenizer

STEPS = {
    "steps-parts": 'Read the sentence slowly, work out what it says part by part, and sum it up in one word. Sentence: "{text}" Summary: "',
    "steps-who-what": 'First find who or what is spoken of, then what happens, then say both in one word. Sentence: "{text}" Word: "',
    "steps-behind": 'This sentence: "{text}" Having gone through it piece by piece, one word for all of it: "',
    "steps-order": 'Take subject, action and object in turn, then say in one word what they amount to. Sentence: "{text}" Answer: "',
    "steps-comes-down": 'Taken one part after the other, this sentence: "{text}" comes down to one word: "',
    "steps-careful": 'A careful reader goes bit by bit before naming the meaning in one word. Sentence: "{text}" Meaning: "',
}
KNOWLEDGE = {
    "knowledge-act": 'Who acts and what is done carry a sentence; fillers matter little. Say in one word what a sentence means. '
    'Sentence: "{text}" Meaning: "',
    "knowledge-nouns": 'Nouns and verbs hold most of what a sentence tells, the other words only colour it. This sentence: "{text}" '
    'means in one word: "',
    "knowledge-alike": 'Sentences are alike if the same happens to the same kind of thing, in whatever words. Say in one word what a '
    'sentence means. Sentence: "{text}" Meaning: "',
    "knowledge-event": 'Sentences that report one event may differ in names, numbers and details. Say in one word what a sentence reports. '
    'Sentence: "{text}" Event: "',
    "knowledge-headline": 'A headline keeps the actor and the deed and drops the rest. Sentence: "{text}" Headline in one word: "',
    "knowledge-memory": 'People remember what a sentence was about, not how it was put. Say in one word what they remember. '
    'Sentence: "{text}" Memory: "',
}  # fmt: skip
FAMILIES = {"steps": STEPS, "knowledge": KNOWLEDGE}
_CLEANUP = "paper"
_N_PAIRS_SHOWN = 3


def one_template(name: str, prompt: str) -> TemplateSet:
    """A set of a single prompt."""
    return TemplateSet(name, _CLEANUP, (PromptTemplate(name, prompt),))


class Wordings:
    """Embeds the sample with one template set after the other.

    Attributes:
        sample: Pairs and texts.
        passes: The model.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.sample = load_pairs(arguments.data, arguments.sets.split(","), arguments.pairs)
        self.passes = load_passes(arguments)
        self._tokenizer = PromptTokenizer(AutoTokenizer.from_pretrained(arguments.model))
        self._prompts: dict[str, list[Ids]] = {}
        self._states: dict[str, Tensor] = {}

    def embed(self, templates: TemplateSet, method: str) -> Cell:
        """Run a template set; its best cell."""
        started = time.monotonic()
        prompts = self._prompts[templates.name] = prompt_ids(templates, self._tokenizer, self.sample.texts)
        states = self._states[templates.name] = mean_states(self.passes.plain, prompts)
        print(f"{templates.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return self._best(Candidate(templates.name, method, "", shared_tokens(prompts), whole_tokens(prompts)), states)

    def mean_of_two(self, a: str, b: str) -> Cell:
        """Best cell of the mean of two wordings that were run, at what both cost with common starts shared."""
        prompts = [*self._prompts[a], *self._prompts[b]]
        candidate = Candidate(f"{a} + {b}", "mean of two", "", shared_tokens(prompts), whole_tokens(prompts))
        return self._best(candidate, (self._states[a] + self._states[b]) / 2)

    def _best(self, candidate: Candidate, states: Tensor) -> Cell:
        return best(make_cells(self.sample, candidate, states.numpy(), self.passes.layers))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wordings", description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--templates", default="prompteol,metaeol", help="built-in sets to compare with; the first is the base")
    parser.add_argument("--json", type=Path, default=FOLDER / "wordings.json")
    arguments = parser.parse_args()
    wordings = Wordings(arguments)
    base, *known = [wordings.embed(TemplateSet.load(name), "built in") for name in arguments.templates.split(",")]
    single = [wordings.embed(one_template(*item), name) for name, family in FAMILIES.items() for item in family.items()]
    pairs = [wordings.mean_of_two(a, b) for a, b in itertools.product(STEPS, KNOWLEDGE)]
    shown = [*known, *single, *sorted(pairs, key=lambda cell: -cell.choosing)[:_N_PAIRS_SHOWN]]
    rows = [make_row(wordings.sample, base, None), *(make_row(wordings.sample, cell, base) for cell in shown)]
    show(rows)
    write_results(arguments.json, rows, cells=[make_row(wordings.sample, cell, None) for cell in [base, *known, *single, *pairs]])


if __name__ == "__main__":
    main()
