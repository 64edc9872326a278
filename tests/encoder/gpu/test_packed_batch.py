"""A whole batch at once, as GPUs run it, equals cell by cell: who sees whom, windows, softcaps, prefixes, suffixes, common starts."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as flex_module

from benchmarks import gpu_shapes
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import decoder_pass
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache, Recording
from metaeol_udf.encoder.gpu.flex_attention import run_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.preparation import prepare_texts
from tests import tiny_models
from tests.encoder.oracle import worst_cosine
from tests.encoder.test_exactness import TEXTS

pytestmark = pytest.mark.long

LINE = "the people of the river know that this is good work and go to see it "
LOGS = [*(LINE * 2 + end for end in ("a", "the old guitar", "music", "bad")), LINE + "x", LINE + "y day", "a good day", "is it new?"]
SHAPES = ("llama", "mistral", "qwen3", "gemma2", "gemma3", "gpt2", "opt", "olmo3")


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


@pytest.mark.parametrize(
    "templates", ["metaeol", *(pytest.param(name, marks=pytest.mark.slow) for name in ("metaeol-fast", "metaeol-separate"))]
)
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
    wrong = as_stream(encoder, least_full=0.0, layer_function=lambda *arguments: -run_layer(*arguments))
    wrong.set_batch_tokens(512)
    cells, ours = both(encoder, wrong, TEXTS)
    assert worst_cosine(ours, cells) >= 0.99999
    assert wrong.refused
    assert all("cosine to cells" in why for why in wrong.refused.values())
    assert caplog.text.count("run cell by cell") == len(wrong.refused)
    n_packed = wrong.n_batches["compiled"]
    both(encoder, wrong, TEXTS)
    assert wrong.n_batches["compiled"] == n_packed  # none is tried again


def test_a_shape_that_does_not_compile_runs_cell_by_cell_and_the_others_do_not(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    def fail_at_512(*arguments: object) -> torch.Tensor:
        if arguments[2].shape[0] == 512:  # type: ignore[attr-defined]
            raise torch._dynamo.exc.FailOnRecompileLimitHit("the limit is reached")
        return run_layer(*arguments)  # type: ignore[arg-type]

    encoder = load(tiny_model("llama"), "metaeol")
    stream = as_stream(encoder, least_full=0.0, layer_function=fail_at_512)
    stream.set_batch_tokens(512)
    for texts in (TEXTS, TEXTS[:1]):
        cells, ours = both(encoder, stream, texts)
        assert worst_cosine(ours, cells) >= 0.99999
    assert {shape[0] for shape in stream.refused} == {512}
    assert set(stream.refused.values()) == {"FailOnRecompileLimitHit: the limit is reached"}
    assert caplog.text.count("the limit is reached") == len(stream.refused)
    assert stream.n_batches["compiled"] > len(stream.refused)  # the quarter's batches


@pytest.mark.slow
@pytest.mark.parametrize("n_sizes", [10])
def test_more_shapes_than_torch_compiles_by_default_are_compiled_in_another_thread(
    n_sizes: int, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(decoder_pass, "fits_onednn", lambda layer: False)
    encoder = load(tiny_model("llama"), "metaeol")
    counter = CompileCounter()
    stream = as_stream(encoder, least_full=0.0, layer_function=torch.compile(run_layer, backend=counter, fullgraph=True, dynamic=False))
    expected = encoder.encode(TEXTS[:2])
    object.__setattr__(encoder.engine, "runner", stream)
    encoder.batch_runner = BatchRunner(encoder.engine, 1024)  # its lane is a thread of its own
    for number in range(n_sizes):
        stream.sizes = (128 * (number + 2),)
        assert worst_cosine(encoder.encode(TEXTS[:2]), expected) >= 0.99999
    assert stream.refused == {}
    assert counter.frame_count >= n_sizes


def test_groups_that_share_who_sees_whom_keep_their_own_suffixes() -> None:
    groups = gpu_shapes.make_groups(gpu_shapes.TEMPLATES["metaeol"], 512)
    alike = [dataclasses.replace(group, suffix_sees=groups[0].suffix_sees) for group in groups]
    with torch.inference_mode():
        decoder = gpu_shapes.build_decoder(gpu_shapes.TINY["tiny"], torch.device("cpu"), torch.float32)
    stream, cells = PackedPass(decoder, alike, least_full=0.0), TriePass(decoder, alike)
    stream.set_batch_tokens(1024)
    prepared = gpu_shapes.make_prepared(alike, gpu_shapes.draw_texts([5, 9, 12, 30], 512), 1024)
    for batch in prepared.batches:
        for ours, expected in zip(stream.run(batch, prepared.text_ids), cells.run(batch, prepared.text_ids), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert stream.worst_proof >= 0.99999


def test_all_middle_layers_and_all_batches_of_a_size_share_one_compiled_function(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(decoder_pass, "fits_onednn", lambda layer: False)  # GPUs have plain weights
    counter = CompileCounter()
    encoder = load(tiny_model("qwen3"), "metaeol")
    stream = as_stream(encoder, least_full=0.0, layer_function=torch.compile(run_layer, backend=counter, fullgraph=True, dynamic=False))
    stream.sizes = (1024,)
    cells, ours = both(encoder, stream, [*TEXTS, *(f"{text} again" for text in TEXTS)])
    assert worst_cosine(ours, cells) >= 0.99999
    assert stream.refused == {}
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


class Graphs(GraphCache):
    """Graphs whose recordings are pretended: a replay computes what `replayed` says of what it was given."""

    def __init__(self, replayed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(torch.device("cpu"))
        self._replayed = replayed
        self.n_recorded = 0

    def record(self, given: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> Recording:
        """As `GraphCache.record`."""
        result, replayed = forward(given), self._replayed
        self.n_recorded += 1

        class Graph:
            def replay(self) -> None:
                result.copy_(replayed(given))

        return Recording(Graph(), given, result)  # type: ignore[arg-type]


def batch_of(number: int) -> torch.Tensor:
    return torch.tensor([[1.0, float(number)]])


def test_a_graph_is_recorded_at_the_second_batch_proved_at_the_third_and_replayed_from_then_on() -> None:
    cache, passes = Graphs(lambda x: x * 2), []
    for number in range(6):
        result = cache.run("shape", batch_of(number), lambda x: passes.append(1) or x * 2)
        assert result.tolist() == (batch_of(number) * 2).tolist()
        assert cache.replays("shape") == (number >= 2)
    assert (len(passes), cache.n_recorded) == (4, 1)  # as it is, recorded and as it is, proved


def test_a_replay_that_ignores_its_input_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    cache = Graphs(lambda x: batch_of(1) * 2)  # the vectors of the batch that was recorded, for ever
    for number in (0, 1, 1, 1, 5, 6, 7):  # the recorded batch again proves nothing
        assert cache.run("shape", batch_of(number), lambda x: x * 2).tolist() == (batch_of(number) * 2).tolist()
    assert not cache.replays("shape")
    assert caplog.text.count("the cosine of its replay") == 1


def test_a_shape_that_cannot_be_recorded_runs_as_it_is_and_others_are_recorded(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Graphs):
        def record(self, given: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> Recording:
            if given.shape[0] == 2:
                raise RuntimeError("capture failed")
            return super().record(given, forward)

    cache = Refusing(lambda x: x * 2)
    for number in range(5):
        for shape in (1, 2):
            assert cache.run(shape, batch_of(number).repeat(shape, 1), lambda x: x * 2).tolist() == [[2.0, 2.0 * number]] * shape
    assert (cache.replays(1), cache.replays(2)) == (True, False)
    assert caplog.text.count("RuntimeError: capture failed") == 1


def test_graphs_are_recorded_again_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, used, streams = iter(range(9)), [], []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: streams.append(device) or f"stream of {device}")

    @contextlib.contextmanager
    def graph(graph: None, pool: int, stream: str, capture_error_mode: str) -> Iterator[None]:
        used.append((pool, stream))
        yield

    monkeypatch.setattr(torch.cuda, "graph", graph)
    cache = GraphCache(torch.device("cuda", 1))
    cache.record(batch_of(1), lambda x: x)
    cache.record(batch_of(2), lambda x: x)
    cache.clear()
    cache.record(batch_of(3), lambda x: x)
    # A pool whose graphs are all gone cannot be captured into again; and a capture happens on the device's own stream.
    assert used == [(0, "stream of cuda:1"), (0, "stream of cuda:1"), (1, "stream of cuda:1")]
    assert streams == [torch.device("cuda", 1)]


def test_a_lane_works_on_the_engines_device(counted: tuple[MetaEOLEncoder, PackedPass, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _, _ = counted
    entered: list[str] = []

    @contextlib.contextmanager
    def note() -> Iterator[None]:
        entered.append(threading.current_thread().name)
        yield

    monkeypatch.setattr(encoder.batch_runner, "on_device", note)
    encoder.encode(TEXTS[:3])
    assert entered
    assert threading.main_thread().name not in entered


def test_a_gpu_that_is_not_the_first_is_made_the_lanes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: f"guard of {device}")
    engine = types.SimpleNamespace(device=torch.device("cuda", 1), runner=types.SimpleNamespace(has_prefixes=True))
    runner = BatchRunner(engine, 1024)  # type: ignore[arg-type]
    assert runner.on_device() == "guard of cuda:1"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("shape", ["llama", "gemma2"])
def test_a_stream_that_is_really_compiled_equals_its_cells(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's compiler for CPUs: the mask, the soft cap and the window are turned into code as they are for GPUs."""
    torch._dynamo.reset()
    monkeypatch.setattr(decoder_pass, "fits_onednn", lambda layer: False)
    encoder = load(tiny_models.save_tiny_model(tmp_path, shape), "metaeol")
    stream = as_stream(encoder, least_full=0.0, layer_function=torch.compile(run_layer, fullgraph=True, dynamic=False))
    stream.sizes = (512,)
    cells, ours = both(encoder, stream, [*TEXTS, *LOGS])
    assert worst_cosine(ours, cells) >= 0.99999
    assert stream.refused == {}
