"""What runs inside Spark's Python workers: re-batching, one encoder a process and one model a GPU, model files, versions."""
