"""Texts a second and CPU seconds a text of this engine and of other people's, side by side: `make bench-peers`.

    python -m benchmarks.peers [--only vllm,ray] [--set vllm.enforce_eager=true] [--texts 64] [--rounds 3] [--json FILE]

Each peer has a process of its own, and only one of them computes at a time. A round gives every peer the same texts in turn, with the
prompts of a template set written out; the next round has other texts, so that no cache of prefixes knows them. Rates are medians over the
rounds. `this engine, times` is its rate with the same templates over the peer's, round by round. The cosine is the least one to
float32, one prompt at a time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import fill_prompts
from benchmarks.contenders import best_dtype, cpu_dtypes
from benchmarks.encode import plainly, spread, worst_cosine
from benchmarks.results import Row, command_parser, describe_machine, show, significant, write_results
from benchmarks.texts import short_texts
from metaeol_udf import TemplateSet

SETS = ("metaeol-separate", "metaeol")
#: Which environment a peer runs in, and how people know it.
PEERS = {
    "ours": ("this", "this engine"),
    "transformers": ("this", "transformers, sorted prompts"),
    "vllm": ("vllm", "vLLM, prefix caching"),
    "openvino": ("others", "OpenVINO"),
    "ray": ("others", "Ray Data around transformers"),
    "daft": ("others", "Daft around transformers"),
}
N_COMPARED = 8  # texts whose vectors are compared with float32


class Peer:
    """A process that embeds, and answers a line for a line."""

    def __init__(self, name: str, python: str, model: Path, n_threads: int, settings: Mapping[str, Any]) -> None:
        """Start it.

        Raises:
            RuntimeError: It ends before it is ready; the message has the end of what it wrote.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - stop() closes it
        worker = Path(__file__).with_name("worker.py").resolve()
        command = [python, str(worker), name, str(model.resolve()), str(n_threads), json.dumps(dict(settings))]
        env = {**os.environ, "OMP_NUM_THREADS": str(n_threads), **_preloaded(name, python)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=env, cwd=tempfile.gettempdir()
        )
        self.versions = self._answer()

    def embed(self, texts: Sequence[str], templates: TemplateSet) -> tuple[NDArray[np.float32], float, float]:
        """Vectors of shape ``(n_texts, hidden_size)``, seconds and CPU seconds."""
        assert self._process.stdin is not None
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            request = {"texts": list(texts), "prompts": fill_prompts(templates, texts), "templates": templates.name, "out": file.name}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._answer()
            vectors = np.load(file.name)
        if len(vectors) != len(texts):
            vectors = vectors.reshape(len(texts), len(templates.templates), -1).mean(1)
        return vectors, answer["seconds"], answer["cpu_seconds"]

    def stop(self) -> None:
        """End it by closing its input."""
        with self._process, self._errors:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(timeout=60)
            self._errors.seek(0)
            told = " ".join(self._errors.read().split())[-600:]
            self.stop()
            raise RuntimeError(f"{self.name} ended: {told}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _preloaded(name: str, python: str) -> dict[str, str]:
    """The library of threads that vLLM asks to be loaded first, where its environment has it."""
    library = Path(python).parent.parent / "lib" / "libiomp5.so"
    return {"LD_PRELOAD": str(library)} if name == "vllm" and library.exists() else {}


@dataclass
class Measured:
    """What the rounds of one peer with one template set gave.

    Attributes:
        rates: Texts a second, one for each round.
        cpu_seconds: A text, one for each round.
        cosine: The least one to float32.
    """

    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    cosine: float = 0.0


def measure(
    peers: Sequence[Peer], rounds: Sequence[Sequence[str]], sets: Sequence[str], reference: Mapping[str, NDArray[np.float32]]
) -> dict[str, dict[str, Measured]]:
    """Embed the texts of each round with each peer and template set in turn; by the peer's name, then the set's.

    Args:
        peers: Started ones.
        rounds: Texts of each round. Those of the first are not timed; their vectors are compared with `reference`.
        sets: Names of template sets.
        reference: Vectors of the first round's first texts, by template set.
    """
    found = {peer.name: {name: Measured() for name in sets} for peer in peers}
    for name in sets:
        templates = TemplateSet.load(name)
        for peer in peers:
            vectors, _, _ = peer.embed(rounds[0], templates)
            found[peer.name][name].cosine = worst_cosine(vectors[: len(reference[name])], reference[name])
        for texts in rounds[1:]:
            for peer in peers:
                _, seconds, cpu_seconds = peer.embed(texts, templates)
                print(f"{name}, {PEERS[peer.name][1]}: {len(texts) / seconds:.2f} texts/s", file=sys.stderr, flush=True)
                found[peer.name][name].rates.append(len(texts) / seconds)
                found[peer.name][name].cpu_seconds.append(cpu_seconds / len(texts))
    return found


def tabulate(measured: Mapping[str, Mapping[str, Measured]], versions: Mapping[str, Mapping[str, str]]) -> list[Row]:
    """One row a peer and template set; this engine stands first, and the others are compared with it."""
    rows: list[Row] = []
    for peer, by_set in measured.items():
        for name, result in by_set.items():
            times = [ours / rate for ours, rate in zip(measured["ours"][name].rates, result.rates, strict=True)]
            told = ", ".join(f"{package} {version}" for package, version in versions[peer].items())
            rows.append(
                {
                    "peer": PEERS[peer][1],
                    "templates": name,
                    "texts_per_second": significant(statistics.median(result.rates)),
                    "cpu_seconds_per_text": significant(statistics.median(result.cpu_seconds)),
                    **spread(times),
                    "worst_cosine": round(result.cosine, 6),
                    "versions": told,
                }
            )
    return rows


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--environments", type=Path, default=Path(".venv-peers"), help="folder with an environment `vllm` and one `others`")
    parser.add_argument("--only", default=",".join(PEERS), help="names of peers, separated by commas")
    parser.add_argument("--sets", default=",".join(SETS), help="names of template sets, separated by commas")
    parser.add_argument(
        "--dtype", choices=cpu_dtypes(), default=best_dtype(), help="of all peers; the quickest that this processor computes in"
    )
    parser.add_argument("--texts", type=int, default=64, help="texts of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="PEER.OPTION=VALUE", help="an option of a peer, its value as JSON")
    arguments = parser.parse_args()
    names = list(dict.fromkeys(["ours", *arguments.only.split(",")]))
    if unknown := set(names) - set(PEERS):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    settings: dict[str, dict[str, Any]] = {name: {"dtype": arguments.dtype} for name in names}
    for given in arguments.set:
        option, _, value = given.partition("=")
        peer, _, key = option.partition(".")
        if peer not in settings or not key:
            parser.error(f"--set takes PEER.OPTION=VALUE with a peer that runs, found {given}")
        settings[peer][key] = json.loads(value)
    texts = short_texts(arguments.texts * (arguments.rounds + 1))
    rounds = [texts[start : start + arguments.texts] for start in range(0, len(texts), arguments.texts)]
    sets = arguments.sets.split(",")
    reference = {name: plainly(arguments.model, name, rounds[0][:N_COMPARED]) for name in sets}
    n_threads = len(os.sched_getaffinity(0))
    peers: list[Peer] = []
    try:
        for name in names:
            environment = PEERS[name][0]
            python = sys.executable if environment == "this" else str((arguments.environments / environment / "bin" / "python").absolute())
            peers.append(Peer(name, python, arguments.model, n_threads, settings[name]))
            print(f"{PEERS[name][1]}: {peers[-1].versions}", flush=True)
        rows = tabulate(measure(peers, rounds, sets, reference), {peer.name: peer.versions for peer in peers})
    finally:
        for peer in peers:
            peer.stop()
    note = f"{arguments.rounds} rounds of {arguments.texts} texts of up to 80 characters, {arguments.dtype}, {n_threads} threads"
    print(describe_machine(), note, sep="\n")
    show(rows)
    if arguments.json:
        write_results(arguments.json, rows, [note])


if __name__ == "__main__":
    main()
