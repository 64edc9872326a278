"""A whole batch at once, as GPUs run it, equals cell by cell: who sees whom, windows, softcaps, prefixes, suffixes, common starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as flex_module

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import loading
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.flex_attention import run_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.preparation import prepare_texts
from tests import tiny_models
from tests.encoder.oracle import worst_cosine
from tests.encoder.test_exactness import TEXTS

pytestmark = pytest.mark.long

LINE = "the people of the river know that this is good work and go to see it "
LOGS = [*(LINE * 2 + end for end in ("a", "the old guitar", "music", "bad")), LINE + "x", LINE + "y day", "a good day", "is it new?"]
SHAPES = ("llama", "mistral", "qwen3", "gemma2", "gemma3", "gpt2", "opt")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, FlexAttention warns and traces even where nothing is compiled."""
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def load(folder: Path, templates: str, **options: object) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(str(folder), templates=TemplateSet.load(templates), device="cpu", dtype="float32", **options)  # type: ignore[arg-type]


def as_stream(encoder: MetaEOLEncoder, **options: object) -> PackedPass:
    """The encoder's decoder as a GPU would run it."""
    cells = encoder.engine.runner
    assert isinstance(cells, TriePass)
    return PackedPass(cells.decoder, encoder.engine.trie.groups, **options)  # type: ignore[arg-type]


def both(encoder: MetaEOLEncoder, stream: PackedPass, texts: list[str], max_batch_tokens: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """States of every batch cell by cell and as streams, shape ``(n_states, hidden_size)``."""
    cells = encoder.engine.runner
    prepared = prepare_texts(texts, encoder.engine.trie, encoder.templates, 512, max_batch_tokens, shares_starts=True)
    cells.use_groups(prepared.groups)
    stream.use_groups(prepared.groups)
    found = []
    for runner in (cells, stream):
        states = [state.flatten(0, 1) for batch in prepared.batches for state in runner.run(batch, prepared.text_ids)]
        found.append(torch.cat(states).numpy())
    return found[0], found[1]


def count_calls(calls: list[int]) -> Callable[..., torch.Tensor]:
    """`run_layer`, noting the tokens of each call."""

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(arguments[2].shape[0])  # type: ignore[attr-defined]
        return run_layer(*arguments)  # type: ignore[arg-type]

    return counted


@pytest.mark.parametrize("templates", ["metaeol", "metaeol-fast", "metaeol-separate"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_equals_its_cells(shape: str, templates: str, tiny_model: Callable[..., Path]) -> None:
    encoder = load(tiny_model(shape), templates)
    calls: list[int] = []
    stream = as_stream(encoder, least_full=0.0, layer_function=count_calls(calls))
    stream.set_batch_tokens(512)
    for texts in (TEXTS, LOGS):
        cells, ours = both(encoder, stream, texts)
        assert worst_cosine(ours, cells) >= 0.99999
    assert len(calls) >= 2 * len(stream.decoder.layers)


@pytest.fixture
def counted(tiny_model: Callable[..., Path]) -> tuple[MetaEOLEncoder, PackedPass, list[int]]:
    """A tiny Llama whose encoder runs streams, with the tokens of every layer's call."""
    encoder = load(tiny_model("llama"), "metaeol")
    calls: list[int] = []
    stream = as_stream(encoder, layer_function=count_calls(calls))
    object.__setattr__(encoder.engine, "runner", stream)
    encoder.batch_runner = BatchRunner(encoder.engine, 1024)
    return encoder, stream, calls


def test_full_batches_are_padded_to_few_sizes_and_others_run_cell_by_cell(counted: tuple[MetaEOLEncoder, PackedPass, list[int]]) -> None:
    encoder, stream, calls = counted
    expected = load(Path(encoder.spec.model), "metaeol").encode(TEXTS)
    assert stream.sizes == (256, 1024)
    assert worst_cosine(encoder.encode(TEXTS), expected) >= 0.99999
    assert set(calls) == {1024}
    calls.clear()
    encoder.encode(TEXTS[:1])
    assert not calls


def test_a_short_job_does_not_wait_for_a_compiler(counted: tuple[MetaEOLEncoder, PackedPass, list[int]]) -> None:
    encoder, stream, calls = counted
    stream.tokens_before = 1500
    encoder.encode(TEXTS[:6])
    assert not calls
    assert 0 < stream.tokens_before < 1500
    encoder.encode(TEXTS)
    encoder.encode(TEXTS)
    assert calls


def test_a_stream_that_differs_from_its_cells_is_not_used(tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    encoder = load(tiny_model("llama"), "metaeol")
    wrong = as_stream(encoder, layer_function=lambda *arguments: -run_layer(*arguments))
    wrong.set_batch_tokens(512)
    cells, ours = both(encoder, wrong, TEXTS)
    assert worst_cosine(ours, cells) >= 0.99999
    assert wrong.sizes == ()
    assert "cell by cell" in caplog.text
    wrong.set_batch_tokens(512)
    assert wrong.sizes == ()


def test_where_nothing_compiles_cells_are_used_with_one_warning(tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: object) -> torch.Tensor:
        raise torch._dynamo.exc.Unsupported("no compiler")

    encoder = load(tiny_model("llama"), "metaeol")
    stream = as_stream(encoder, layer_function=fail)
    stream.set_batch_tokens(512)
    cells, ours = both(encoder, stream, TEXTS)
    assert worst_cosine(ours, cells) >= 0.99999
    assert caplog.text.count("cell by cell") == 1


def test_all_middle_layers_and_all_batches_of_a_size_share_one_compiled_function(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(loading, "fits_onednn", lambda layer: False)  # GPUs have plain weights
    counter = CompileCounter()
    encoder = load(tiny_model("qwen3"), "metaeol")
    stream = as_stream(encoder, least_full=0.0, layer_function=torch.compile(run_layer, backend=counter, fullgraph=True, dynamic=False))
    stream.sizes = (1024,)
    cells, ours = both(encoder, stream, [*TEXTS, *(f"{text} again" for text in TEXTS)])
    assert worst_cosine(ours, cells) >= 0.99999
    assert stream.sizes  # nothing was given up
    assert counter.frame_count <= 1 + 2  # the last layer's outputs come in a few sizes


def test_memory_that_runs_out_while_a_batch_is_under_way_halves_batches_and_loses_none(
    counted: tuple[MetaEOLEncoder, PackedPass, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, stream, _ = counted
    run = stream.run

    def small_memory(batch: list, ids: list) -> list[torch.Tensor]:
        if sum(cell.n_tokens for cell in batch) > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch, ids)

    expected = encoder.encode(TEXTS)
    monkeypatch.setattr(stream, "run", small_memory)
    assert worst_cosine(encoder.encode(TEXTS), expected) >= 0.99999
    assert encoder.batch_runner.max_batch_tokens <= 512


def test_what_fails_on_the_device_when_results_are_read_fails_that_text_alone(
    counted: tuple[MetaEOLEncoder, PackedPass, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _, _ = counted
    poison: list[bool] = []

    class Copier:
        """As that of a GPU: what went wrong on the device is raised when results are read."""

        def start(self, states: list[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
            fails = poison.pop(0)

            def read() -> list[np.ndarray]:
                if fails:
                    raise RuntimeError("device-side assert")
                return [state.numpy() for state in states]

            return read

    run = encoder.engine.runner.run

    def note(batch: list, ids: list) -> list[torch.Tensor]:
        poison.append(any(2 in cell.rows for cell in batch))
        return run(batch, ids)

    monkeypatch.setattr(encoder.batch_runner, "copier", Copier())
    monkeypatch.setattr(encoder.engine.runner, "run", note)
    assert encoder.encode_rows(TEXTS[:6]).errors == [None, None, "error: RuntimeError", None, None, None]


def test_a_graph_is_recorded_when_a_shape_comes_again_and_replayed_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bookkeeping alone: recording itself needs CUDA, see test_gpu.py."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    recorded = []

    class Graph:
        def replay(self) -> None:
            recorded[-1].result.copy_(recorded[-1].given * 2)

    def record(self: GraphCache, given: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> object:
        from metaeol_udf.encoder.gpu.cuda_graphs import _Recording

        recorded.append(_Recording(Graph(), given, forward(given)))  # type: ignore[arg-type]
        return recorded[-1]

    monkeypatch.setattr(GraphCache, "record", record)
    cache, passes = GraphCache(), []
    for number in range(4):
        given = torch.full((3,), float(number))
        result = cache.run("shape", given, lambda x: passes.append(1) or x * 2)
        assert result.tolist() == [2.0 * number] * 3
    assert (len(passes), len(recorded)) == (2, 1)


def test_a_pass_that_cannot_be_recorded_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("capture failed")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(GraphCache, "record", refuse)
    cache = GraphCache()
    for number in range(4):
        assert cache.run("shape", torch.ones(2), lambda x, n=number: x * n).tolist() == [number] * 2
    assert caplog.text.count("CUDA graphs are not used") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("shape", ["llama", "gemma2"])
def test_a_stream_that_is_really_compiled_equals_its_cells(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's compiler for CPUs: the mask, the soft cap and the window are turned into code as they are for GPUs."""
    torch._dynamo.reset()
    monkeypatch.setattr(loading, "fits_onednn", lambda layer: False)
    encoder = load(tiny_models.save_tiny_model(tmp_path, shape), "metaeol")
    stream = as_stream(encoder, least_full=0.0, layer_function=torch.compile(run_layer, fullgraph=True, dynamic=False))
    stream.sizes = (512,)
    cells, ours = both(encoder, stream, [*TEXTS, *LOGS])
    assert worst_cosine(ours, cells) >= 0.99999
    assert stream.sizes, "the stream was given up"
