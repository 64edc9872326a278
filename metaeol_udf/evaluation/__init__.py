"""How good embeddings are: sentence similarity and transfer tasks on labelled data, with confidence intervals. Knows no Spark."""

from metaeol_udf.evaluation.data import StsTask, TransferTask, load_tasks
from metaeol_udf.evaluation.scores import StsScore, score_sts

__all__ = ["StsScore", "StsTask", "TransferTask", "load_tasks", "score_sts"]
