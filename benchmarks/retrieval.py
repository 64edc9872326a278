"""Retrieval: nDCG@10 and recall of template sets and of specs beside BM25, on two sets that need no other labels.

    python -m benchmarks.retrieval --xquad xquad.en.json --write docs/quality.md

`xquad`: the 1,190 English questions of XQuAD (Artetxe et al. 2020) shall find their paragraphs among all 240; the file is the
published one. `agnews`: titles of AG News shall find their descriptions; the corpus of `../shared/data` joins the two by a full
stop, and the first full stop behind 20 characters parts them, so a few titles lack their end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.publish import put_between_markers
from benchmarks.results import markdown_table
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from metaeol_udf.evaluation import RetrievalScore, RetrievalTask, score_retrieval
from metaeol_udf.evaluation.retrieval import score_ranking
from metaeol_udf.evaluation.retrieval_data import make_retrieval
from metaeol_udf.evaluation.scores import percentile_interval

SETS = ("metaeol", "metaeol-fast")
SPECS = ("any-model", "smollm2-135m", "smollm2-135m-balanced")  # of conf/specs
_RESAMPLES = 1_000
_LEAST_TITLE = 20  # characters; full stops before that are of abbreviations


def xquad_task(path: Path) -> RetrievalTask:
    """Questions that shall find their paragraphs."""
    found = json.loads(path.read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in found["data"] for paragraph in article["paragraphs"]]
    asked = [(qa["question"].strip(), paragraph["context"].strip()) for paragraph in paragraphs for qa in paragraph["qas"]]
    return make_retrieval("xquad", *map(list, zip(*asked, strict=True)))


def agnews_task(data: Path, rows: int, seed: int = 0) -> RetrievalTask:
    """Titles that shall find their descriptions, of so many rows drawn at random."""
    table = pq.read_table(data / "corpus" / "corpus.parquet")
    texts = [text for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True) if name.startswith("agnews-")]
    parted = [(text[:place], text[place + 2 :]) for text in texts if (place := text.find(". ", _LEAST_TITLE)) > 0]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(parted))[:rows])
    return make_retrieval("agnews", [parted[row][0] for row in chosen], [parted[row][1] for row in chosen])


def rank_by_bm25(queries: Sequence[str], documents: Sequence[str], k: int, k1: float = 1.2, b: float = 0.75) -> NDArray[np.int64]:
    """Rank by BM25 (Robertson and Zaragoza 2009) over lower-cased words, without stemming and stop words; equal scores in their order."""
    counts = [Counter(_words(document)) for document in documents]
    lengths = np.array([sum(each.values()) for each in counts], np.float64)
    norms = k1 * (1 - b + b * lengths / lengths.mean())
    holders: dict[str, list[int]] = {}
    for place, each in enumerate(counts):
        for word in each:
            holders.setdefault(word, []).append(place)
    ranking = np.full((len(queries), k), -1, np.int64)
    for row, query in enumerate(queries):
        scores = np.zeros(len(documents))
        for word in _words(query):
            places = holders.get(word, [])
            weight = np.log(1 + (len(documents) - len(places) + 0.5) / (len(places) + 0.5))
            often = np.array([counts[place][word] for place in places], np.float64)
            scores[places] += weight * often * (k1 + 1) / (often + norms[places])
        best = np.argsort(-scores, kind="stable")[:k]
        ranking[row, : len(best)] = best
    return ranking


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def measure(spec: EmbeddingSpec, tasks: Sequence[RetrievalTask]) -> dict[str, RetrievalScore]:
    """Score one spec on all tasks, from one load of the model."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    found = {}
    for task in tasks:
        queries, documents = encoder.encode(task.queries), encoder.encode(task.documents)
        found[task.name] = score_retrieval(queries, documents, task.relevance, resamples=_RESAMPLES)
    return found


def gain(score: RetrievalScore, over: RetrievalScore, seed: int = 0) -> tuple[float, float, float]:
    """nDCG@10 of one less that of another on the same queries, and the 95 % interval of the difference over queries."""
    differences = score.ndcg_of_queries - over.ndcg_of_queries
    draw, n = np.random.default_rng(seed), len(differences)
    interval = percentile_interval(np.array([differences[draw.integers(0, n, n)].mean() for _ in range(_RESAMPLES)]))
    assert interval is not None
    return float(differences.mean()), *interval


def table(scores: Mapping[str, Mapping[str, RetrievalScore]], task: RetrievalTask) -> str:
    """One line a contender; gains are over the first one."""
    first = next(iter(scores.values()))[task.name]
    rows: list[dict[str, Any]] = []
    for name, found in scores.items():
        score = found[task.name]
        assert score.ndcg_interval is not None
        mean, low, high = gain(score, first)
        rows.append(
            {
                task.name: name,
                "nDCG@10": f"{score.ndcg:.1f} ({score.ndcg_interval[0]:.1f} to {score.ndcg_interval[1]:.1f})",
                "gain": "" if score is first else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                "MRR@10": f"{score.mrr:.1f}",
                **{f"recall@{k}": f"{value:.1f}" for k, value in score.recall.items()},
            }
        )
    return markdown_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--xquad", type=Path, help="xquad.en.json as published; without it that set is left out")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--specs", type=Path, nargs="+", default=[Path("conf/specs") / f"{name}.yaml" for name in SPECS])
    parser.add_argument("--rows", type=int, default=1_000, help="of AG News")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    tasks = [] if arguments.xquad is None else [xquad_task(arguments.xquad)]
    tasks.append(agnews_task(arguments.data, arguments.rows))
    specs = {name: EmbeddingSpec(model=arguments.model, templates=name) for name in SETS}
    specs |= {path.name: dataclasses.replace(EmbeddingSpec.load(path), model=arguments.model) for path in arguments.specs}
    scores: dict[str, dict[str, RetrievalScore]] = {}
    for name, spec in specs.items():
        scores[name] = measure(spec, tasks)
        print(name, {task: round(score.ndcg, 2) for task, score in scores[name].items()}, flush=True)
    scores["BM25"] = {
        task.name: score_ranking(rank_by_bm25(task.queries, task.documents, 100), task.relevance, len(task.documents), resamples=_RESAMPLES)
        for task in tasks
    }
    sizes = ", ".join(f"{task.name}: {len(task.queries):,} queries, {len(task.documents):,} documents" for task in tasks)
    command = f"python -m benchmarks.retrieval{' --xquad xquad.en.json' if arguments.xquad else ''} --rows {arguments.rows}"
    said = f"`{command}`, {date.today()}, {Path(arguments.model).name}, bfloat16 where the CPU has it. {sizes}. x 100, 95 % over queries."
    text = "\n\n".join([said, *(table(scores, task) for task in tasks)])
    print(text)
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(put_between_markers(page, {"retrieval": text}), encoding="utf-8")


if __name__ == "__main__":
    main()
