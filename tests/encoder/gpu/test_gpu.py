"""The same laws on a CUDA device: skipped where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.gpu.flex_attention import compile_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from tests import tiny_models
from tests.encoder.oracle import worst_cosine
from tests.encoder.test_exactness import TEXTS

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("templates", ["metaeol", "metaeol-fast", "metaeol-separate"])
def test_the_demo_model_on_a_gpu_equals_the_cpu(templates: str, graphs: bool, model_dir: Path) -> None:
    chosen = TemplateSet.load(templates)
    sets = [TEXTS, [f"{text} Not so!" for text in TEXTS]]
    on_cpu = MetaEOLEncoder.from_pretrained(str(model_dir), templates=chosen, dtype="float32", device="cpu")
    expected = [on_cpu.encode(texts) for texts in sets]
    ours = MetaEOLEncoder.from_pretrained(str(model_dir), templates=chosen, dtype="float32", device="cuda", max_batch_tokens=1024)
    runner = ours.engine.runner
    assert isinstance(runner, PackedPass)
    runner.tokens_before = 0
    if not graphs:
        runner.graphs = None
    for _ in range(4):  # compiled, recorded, proved, replayed
        for texts, vectors in zip(sets, expected, strict=True):  # in turn: a replay that ignores its input shows
            assert worst_cosine(ours.encode(texts), vectors) >= 0.99999
    assert bool(runner.n_batches["graph"]) == graphs
    assert runner.refused == {}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("shape", ["mistral", "gemma2", "gemma3", "gpt2"])
def test_windows_softcaps_and_learned_positions_on_a_gpu(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_models.configs()[shape]  # with heads as wide as the kernel asks for
    config.update({"n_prefix": 3} if shape == "gpt2" else {"head_dim": 32})
    monkeypatch.setattr(tiny_models, "configs", lambda: {shape: config})
    folder, templates = str(tiny_models.save_tiny_model(tmp_path, shape)), TemplateSet.load("metaeol")
    expected = MetaEOLEncoder.from_pretrained(folder, templates=templates, dtype="float32", device="cpu").encode(TEXTS)
    ours = MetaEOLEncoder.from_pretrained(folder, templates=templates, dtype="float32", device="cuda")
    runner = PackedPass(ours.engine.runner.decoder, ours.engine.trie.groups, layer_function=compile_layer(), least_full=0.0)
    object.__setattr__(ours.engine, "runner", runner)
    ours.batch_runner = BatchRunner(ours.engine, 1024)
    assert worst_cosine(ours.encode(TEXTS), expected) >= 0.99999
    assert runner.refused == {}


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_that_runs_out_of_memory_goes_on_with_smaller_batches(model_dir: Path) -> None:
    ours = MetaEOLEncoder.from_pretrained(str(model_dir), templates=TemplateSet.load("metaeol"), device="cuda")
    texts = [f"{text} {number}" for number in range(200) for text in TEXTS]
    expected = ours.encode(texts)
    reserved = torch.cuda.mem_get_info()[0] - 2**28
    blocker = torch.empty(reserved, dtype=torch.uint8, device="cuda")
    found = ours.encode(texts)
    del blocker
    assert worst_cosine(found, expected) >= 0.995


def test_the_benchmark_refuses_to_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    with pytest.raises(SystemExit) as refused:
        gpu.main()
    assert refused.value.code == 5
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_benchmark_can_be_tried_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--tiny", "--seconds", "0.01", "--lengths", "12,30", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *arguments])
    gpu.main()
    rows = json.loads(report.read_text())["rows"]
    assert [(row["model"], row["text tokens"]) for row in rows] == [("tiny", 12), ("tiny", 30)]
    assert all(row["texts/s"] > 0 and row["MFU"] > 0 for row in rows)
    assert "| model | text tokens | path | texts/s | tokens/s | MFU |" in capsys.readouterr().out
