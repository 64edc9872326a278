"""From tasks to scores: every distinct text is embedded once, then each task is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.evaluation.data import StsTask, Task, TransferTask
from metaeol_udf.evaluation.retrieval import RetrievalScore, score_retrieval
from metaeol_udf.evaluation.retrieval_data import RetrievalTask
from metaeol_udf.evaluation.scores import StsScore, score_sts
from metaeol_udf.evaluation.transfer import INNER_FOLDS, TransferScore, check_classes, require_sklearn, score_transfer
from metaeol_udf.terminal import waiting

#: From texts to vectors, float32, shape ``(n_texts, dim)``, rows in the order of the texts.
Encode = Callable[[Sequence[str]], NDArray[np.float32]]
Score = StsScore | TransferScore | RetrievalScore
Scores = dict[str, Score]


def evaluate(encode: Encode, tasks: Sequence[Task], *, resamples: int = 1_000, seed: int = 0, inner_folds: int = INNER_FOLDS) -> Scores:
    """Embed the texts of all tasks, each distinct one once, and score every task.

    Args:
        encode: Called once, with the distinct texts in the order of their first appearance.
        tasks: From `load_tasks`.
        resamples: Bootstrap resamples for the intervals; 0 gives none.
        seed: Of folds and resampling.
        inner_folds: As in `score_transfer`.

    Returns:
        Each task's score by its name, in the order of the tasks.

    Raises:
        ConfigError: A transfer task cannot be scored: nothing has been embedded then.
        ValueError: `encode` did not return a vector a text.
    """
    check_tasks(tasks)
    texts = distinct_texts(tasks)
    vectors = encode(texts)
    if len(vectors) != len(texts):
        raise ValueError(f"{len(texts)} texts were to be embedded, found {len(vectors)} vectors")
    row_of = {text: row for row, text in enumerate(texts)}

    def vectors_of(wanted: Sequence[str]) -> NDArray[np.float32]:
        return vectors[[row_of[text] for text in wanted]]

    def score(task: Task) -> Score:
        if isinstance(task, StsTask):
            pairs = vectors_of(task.sentences1), vectors_of(task.sentences2)
            return score_sts(*pairs, task.gold, task.subsets, resamples=resamples, seed=seed)
        if isinstance(task, RetrievalTask):
            found = vectors_of(task.queries), vectors_of(task.documents)
            return score_retrieval(*found, task.relevance, task.passed_over, resamples=resamples, seed=seed)
        return score_transfer(vectors_of(task.texts), task.labels, task.splits, inner_folds=inner_folds, resamples=resamples, seed=seed)

    with waiting("scoring"):
        return {task.name: score(task) for task in tasks}


def check_tasks(tasks: Sequence[Task]) -> None:
    """Check the transfer tasks by `require_sklearn` and `check_classes`, before anything is embedded."""
    for task in tasks:
        if isinstance(task, TransferTask):
            require_sklearn()
            check_classes(task.labels, task.splits, f"task {task.name!r}")


def distinct_texts(tasks: Sequence[Task]) -> list[str]:
    """List every text of the tasks once, in the order of first appearance."""
    return list(dict.fromkeys(text for task in tasks for text in task.texts))
