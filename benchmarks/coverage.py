"""Which of transformers' causal language models the encoder takes, by which runner, and how exactly: the table of docs/models.md.

Each architecture is a tiny model with random weights; twelve awkward texts go through the package and, one prompt at a time, through
transformers alone. The cosine is the worst of three layers (the first, the middle one, the last) and their mean.

    python -m benchmarks.coverage                        # prints the table
    python -m benchmarks.coverage --write docs/models.md  # and puts it there
    python -m benchmarks.coverage llama qwen3_next        # these alone
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.errors import MetaEOLError
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.tiny_configs import save_any_tiny_model, tiny_config

TEXTS = [
    *("a good day", "x", "the people play music by the river and the old guitar is great", 'she said "run"', "don't {text} stop"),
    *("日本語 text", "<|end|> </s> <s>", "  spaces  inside   too ", "word " * 40 + "end", "…", "is it new?", "it's ''quoted'' 12.5%"),
]
BEGIN, END = "<!-- coverage -->", "<!-- end of coverage -->"
MOST_S = 90  # a model that takes longer is not tiny


@dataclass(frozen=True)
class Result:
    """Holds what became of an architecture.

    Attributes:
        name: In transformers' mapping.
        runner: What runs it; "refused", or "not tried" where no tiny model could be made.
        cosine: The worst one to transformers.
        share: Of the whole prompts' tokens that are computed.
        why: Why it is refused or not tried, or why no faster runner takes it.
    """

    name: str
    runner: str
    cosine: float | None = None
    share: float | None = None
    why: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Try the architectures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures; none: all of the mapping")
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    options = parser.parse_args(arguments)
    results = []
    with _quiet():
        for name in options.names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            results.append(try_architecture(name))
            print(*_cells(results[-1]), sep=" | ", flush=True)
    page = "\n".join(render(results))
    print(page)
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n{page}\n{END}{after}", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings out of the table, and set everything back: a test of this module shares its process with others."""
    verbosity, threads = transformers.logging.get_verbosity(), torch.get_num_threads()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(verbosity)


def try_architecture(name: str) -> Result:
    """Embed texts with a tiny model of an architecture and compare each state with transformers' own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _at_most(MOST_S):
                config = tiny_config(name)
                save_any_tiny_model(config, Path(folder))
        except Exception as error:  # noqa: BLE001 - what transformers cannot make from small sizes says why in many ways
            return Result(name, "not tried", why=f"no tiny model: {type(error).__name__}: {_short(error)}")
        last = config.get_text_config().num_hidden_layers
        layers = sorted({1, max(1, last // 2), last})
        try:
            with _at_most(MOST_S):
                return _measure(name, Path(folder), layers)
        except MetaEOLError as error:
            return Result(name, "refused", why=_short(error).replace(folder, "it").replace("the model in it", "it"))
        except TimeoutError:
            return Result(name, "not tried", why=f"took more than {MOST_S} s")
        except Exception as error:  # noqa: BLE001 - a surprise is a line of the table
            return Result(name, "failed", why=f"{type(error).__name__}: {_short(error)}")


def _measure(name: str, folder: Path, layers: Sequence[int]) -> Result:
    templates = TemplateSet.load("metaeol")
    encoder = MetaEOLEncoder.from_pretrained(str(folder), templates=templates, layer=layers, dtype="float32", device="cpu")
    states = encoder.encode_layers(TEXTS)
    prompts = [template.prompt for template in templates.templates]
    plain = np.stack([one_at_a_time(folder, prompts, TEXTS, layer) for layer in layers], axis=2)
    cosine = min(worst_cosine(states, plain), worst_cosine(states.mean(2), plain.mean(2)))
    described = encoder.describe()
    return Result(name, described["runner"], cosine, described["share_of_tokens"], "; ".join(described["reasons"][1:]))


def render(results: Sequence[Result]) -> Iterator[str]:
    """Write the table, and a line that adds it up."""
    exact = [result for result in results if result.cosine is not None and result.cosine >= 0.99999]
    runners = Counter(result.runner for result in results)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    yield f"{versions}, float32, `metaeol`: {len(exact)} of {len(results)}"
    yield "architectures load and are exact (worst cosine at least 0.99999): " + ", ".join(
        f"{n} {runner}" for runner, n in runners.most_common()
    )
    yield ""
    yield "| architecture | runner | worst cosine | tokens | why |"
    yield "| --- | --- | --- | --- | --- |"
    for result in results:
        yield f"| {' | '.join(_cells(result))} |"


def _cells(result: Result) -> list[str]:
    cosine = "" if result.cosine is None else f"{result.cosine:.6f}"
    share = "" if result.share is None else f"{result.share:.0%}"
    return [f"`{result.name}`", result.runner, cosine, share, result.why]


def _short(error: Any) -> str:
    return " ".join(str(error).split())[:160].replace("|", "/")


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError when what stands inside a `with` takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
