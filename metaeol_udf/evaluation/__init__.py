"""How good embeddings are: sentence similarity, transfer and retrieval on labelled data, with confidence intervals. Knows no Spark."""

from metaeol_udf.evaluation.data import StsTask, TransferTask, load_tasks
from metaeol_udf.evaluation.retrieval import RetrievalScore, score_retrieval
from metaeol_udf.evaluation.retrieval_data import RetrievalTask
from metaeol_udf.evaluation.run import evaluate
from metaeol_udf.evaluation.scores import StsScore, score_sts
from metaeol_udf.evaluation.transfer import TransferScore, score_transfer

__all__ = [
    "RetrievalScore",
    "RetrievalTask",
    "StsScore",
    "StsTask",
    "TransferScore",
    "TransferTask",
    "evaluate",
    "load_tasks",
    "score_retrieval",
    "score_sts",
    "score_transfer",
]
