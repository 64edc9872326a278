"""Tasks from a folder: pairs of sentences with gold scores, texts with class labels, and retrieval sets.

| files | columns | a row is |
| --- | --- | --- |
| `sts/*.tsv`, `sts/*.tsv.gz` | `subset`, `sentence1`, `sentence2`, `score` | a pair of sentences and how alike people find them |
| `transfer/*.tsv`, `transfer/*.tsv.gz` | `split`, `label`, `text` | a text and its class |
| `retrieval/*/` | see `retrieval_data` | queries, documents, and which document answers which query |

UTF-8, one header line, fields split by one tab and lines by a line feed, without quoting or escapes: a `"` is just a
character. Columns may stand in any order, and others beside them. Every file, and every folder of
`retrieval/`, is a task that bears its name. A folder that holds a retrieval set itself is that one task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.errors import ConfigError, did_you_mean
from metaeol_udf.evaluation.retrieval_data import RetrievalTask, is_retrieval_folder, read_retrieval
from metaeol_udf.evaluation.rows import check_line, read_rows, read_score
from metaeol_udf.files import is_folder

STS_COLUMNS = ("subset", "sentence1", "sentence2", "score")
TRANSFER_COLUMNS = ("split", "label", "text")
_SUFFIXES = (".tsv.gz", ".tsv")


@dataclass(frozen=True)
class StsTask:
    """Holds pairs of sentences with gold scores; all attributes but `name` follow the order of the pairs.

    Attributes:
        name: The file's.
        subsets: Which part of the set a pair belongs to.
        sentences1: First sentences.
        sentences2: Second sentences.
        gold: Published scores, float64, shape ``(n_pairs,)``; only their order counts.
    """

    name: str
    subsets: list[str]
    sentences1: list[str]
    sentences2: list[str]
    gold: NDArray[np.float64]

    @property
    def texts(self) -> list[str]:
        """Return all first sentences, then all second ones."""
        return self.sentences1 + self.sentences2


@dataclass(frozen=True)
class TransferTask:
    """Holds texts with class labels; all attributes but `name` follow the order of the rows.

    Attributes:
        name: The file's.
        splits: `all` in every row, or `train` and `test`.
        labels: Class of each text.
        texts: The texts.
    """

    name: str
    splits: list[str]
    labels: list[str]
    texts: list[str]


Task = StsTask | TransferTask | RetrievalTask


def load_tasks(folder: str | Path, names: Sequence[str] | None = None, limit: int | None = None, seed: int = 0) -> list[Task]:
    """Read the tasks of a folder: those of `sts/`, then those of `transfer/`, then those of `retrieval/`, each by name.

    Args:
        folder: Holds some of these three, or is a retrieval set itself.
        names: Tasks to read, in any order; None reads all. Tasks in a folder below these have it in their name, such as
            `senteval_form/stsb_dev`, and are read only where they are named.
        limit: Rows to keep of each task, of a retrieval set queries, drawn at random and kept in their order; None keeps all.
        seed: Of that draw.

    Raises:
        ConfigError: There is no such folder or task, or a file breaks the form; the message gives file, line and rule, and
            never quotes a text.
    """
    files = _find_files(Path(folder))
    chosen = [name for name in files if "/" not in name] if names is None else list(names)
    for name in chosen:
        if name not in files:
            raise ConfigError(f"no task {name!r} in {folder}; {did_you_mean(name, files)}")
    tasks = [_READERS[files[name][0]](name, files[name][1]) for name in files if name in chosen]
    return tasks if limit is None else [_sample(task, limit, seed) for task in tasks]


def _find_files(folder: Path) -> dict[str, tuple[str, Path]]:
    """Find the kind and path of every task by its name, in the order of the tasks."""
    if is_retrieval_folder(folder):
        return {folder.resolve().name: ("retrieval", folder)}
    found: dict[str, tuple[str, Path]] = {}
    for kind in _READERS:
        for name, path in _tasks_in(folder / kind, kind):
            if name in found:
                raise ConfigError(f"task {name!r} is there twice: {found[name][1]} and {path}")
            found[name] = kind, path
    if not found:
        raise ConfigError(
            f"no tasks in {folder}: it must hold sts/NAME.tsv.gz, transfer/NAME.tsv.gz or retrieval/NAME/corpus.jsonl, or be such a NAME"
        )
    return found


def _tasks_in(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Find the tasks of one kind: the name and path of each."""
    if not is_folder(folder):
        return
    if kind == "retrieval":
        for path in sorted(folder.rglob("*")):
            if is_folder(path) and is_retrieval_folder(path):
                yield path.relative_to(folder).as_posix(), path
        return
    for path in sorted(folder.rglob("*.tsv*")):
        suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
        if suffix is not None:
            yield path.relative_to(folder).as_posix().removesuffix(suffix), path


def read_pairs(path: Path) -> StsTask:
    """Read scored pairs of sentences from a file of their own, whose columns are those of `sts/` without `subset`.

    Raises:
        ConfigError: The file cannot be read or breaks the form, or its scores are all equal.
    """
    pairs = _read_sts(path.name, path, STS_COLUMNS[1:])
    if pairs.gold.min() == pairs.gold.max():
        raise ConfigError(f"{path}: all pairs have the same score, so they cannot be ranked")
    return pairs


def _read_sts(name: str, path: Path, columns: Sequence[str] = STS_COLUMNS) -> StsTask:
    subsets, firsts, seconds, gold = [], [], [], []
    for line, (*subset, first, second, score) in read_rows(path, columns):
        check_line(path, line, bool(first.strip() and second.strip()), "sentence1 and sentence2 must not be blank")
        subsets.append(subset[0] if subset else name)
        firsts.append(first)
        seconds.append(second)
        gold.append(read_score(path, line, score))
    return StsTask(name, subsets, firsts, seconds, np.array(gold, np.float64))


def _read_transfer(name: str, path: Path) -> TransferTask:
    splits, labels, texts = [], [], []
    for line, (split, label, text) in read_rows(path, TRANSFER_COLUMNS):
        check_line(path, line, split in ("all", "train", "test"), "split must be all, train or test")
        check_line(path, line, bool(label), "label must not be empty")
        check_line(path, line, bool(text.strip()), "text must not be blank")
        splits.append(split)
        labels.append(label)
        texts.append(text)
    if set(splits) not in ({"all"}, {"train", "test"}):
        raise ConfigError(f"{path}: split must be all in every row, or train in some and test in the others")
    return TransferTask(name, splits, labels, texts)


_READERS: dict[str, Callable[[str, Path], Task]] = {"sts": _read_sts, "transfer": _read_transfer, "retrieval": read_retrieval}


def _sample(task: Task, limit: int, seed: int) -> Task:
    """Draw rows at random, in their order: the rows of many published sets are sorted by class or source."""
    if isinstance(task, RetrievalTask):
        return task.sample(limit, seed)
    n_rows = len(task.gold) if isinstance(task, StsTask) else len(task.texts)
    rows = np.sort(np.random.default_rng(seed).permutation(n_rows)[:limit])
    columns = {field.name: getattr(task, field.name) for field in fields(task) if field.name != "name"}
    kept: dict[str, Any] = {name: column[rows] if name == "gold" else [column[row] for row in rows] for name, column in columns.items()}
    return replace(task, **kept)
