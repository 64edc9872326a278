"""How good embeddings are: sentence similarity and transfer tasks on labelled data, with confidence intervals. Knows no Spark."""

from metaeol_udf.evaluation.data import StsTask, TransferTask, load_tasks
from metaeol_udf.evaluation.run import evaluate
from metaeol_udf.evaluation.scores import StsScore, score_sts
from metaeol_udf.evaluation.transfer import TransferScore, score_transfer

__all__ = ["StsScore", "StsTask", "TransferScore", "TransferTask", "evaluate", "load_tasks", "score_sts", "score_transfer"]
