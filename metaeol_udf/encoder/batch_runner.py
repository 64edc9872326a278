"""Runs planned batches to the end, whatever single texts do: out of memory halves the batch, a text that fails is isolated."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.encoder.forward.threads import one_per_core, start_threads
from metaeol_udf.encoder.gpu.device_copy import ResultCopier, Results
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.loading import Engine
from metaeol_udf.encoder.preparation import PreparedTexts
from metaeol_udf.encoder.vectors.output import add_states, append_means

logger = logging.getLogger(__name__)

_AUTO_BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}  # a CPU's caches hold the activations of about a thousand tokens
_BATCHES_UNTIL_RAISE = 32  # after running out of memory, so many good batches raise the size again by a quarter

_PATHS = {"decoder": "cells"}  # ways of runners that have one, where the way has another name than the runner

_Outcome = list[NDArray[np.float32]] | str  # hidden states a cell, or the code of what went wrong


class _Stopwatch:
    """Measures how long a batch keeps its device at work: on CUDA between two marks in its stream, which no one waits for.

    Of a model that is split over several GPUs the first one is measured.
    """

    def __init__(self, device: torch.device) -> None:
        """Start it; the device must be the calling thread's own."""
        self._is_cuda = device.type == "cuda"
        self._start = self._mark()
        self._stop: Any = None

    def stop(self) -> None:
        """Stop it, once the batch is launched."""
        self._stop = self._mark()

    def seconds(self) -> float:
        """Return the seconds between start and stop; on CUDA only once the batch is over."""
        if self._stop is None:
            return 0.0
        return float(self._start.elapsed_time(self._stop) / 1000 if self._is_cuda else self._stop - self._start)

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        mark.record()
        return mark


@dataclass(frozen=True)
class _Started:
    """Holds a batch that was launched.

    Attributes:
        outcome: On a GPU the results are still to be waited for.
        watch: Measures how long it runs; None where it could not be launched.
    """

    outcome: _Outcome | Results
    watch: _Stopwatch | None


class BatchRunner:
    """Feeds batches to the engine and collects the texts' embeddings: the mean over templates.

    Attributes:
        max_batch_tokens: Tokens of one forward pass; shrinks when memory runs out and grows back slowly.
        n_threads: Threads that run batches.
        copier: On a GPU, what brings results to the host.
        on_texts: Is told after each batch how many more texts are done: the batch's share of the tokens of all batches, in texts.
    """

    def __init__(self, engine: Engine, max_batch_tokens: int | str) -> None:
        self._engine = engine
        self._wanted = _AUTO_BATCH_TOKENS[engine.device.type] if isinstance(max_batch_tokens, str) else max_batch_tokens
        self.max_batch_tokens = self._wanted
        self.n_threads = one_per_core() if engine.device.type == "cpu" and engine.runner.has_prefixes else 1
        self._threads: ThreadPoolExecutor | None = None  # started with the first batch
        self.copier = ResultCopier() if engine.device.type == "cuda" else None
        self.on_texts: Callable[[float], None] | None = None
        self._n_good = 0
        self._work: list[DeviceWork] = []
        self._n_finished, self._busy_s = 0, 0.0
        if isinstance(engine.runner, PackedPass):
            engine.runner.set_batch_tokens(self._wanted)

    def run(
        self, prepared: PreparedTexts, n_templates: int, per_template: bool = False, per_layer: bool = False
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """Run the batches of prepared texts in order.

        Args:
            prepared: The texts and their batches.
            n_templates: Templates of the set.
            per_template: Keep templates apart.
            per_layer: Keep the hidden states of a prompt apart, where several layers are read.

        Returns:
            Hidden states, shape ``(n_unique, n_templates, n_layers, hidden_size)`` without the axes over which the mean is
            taken; and an error or None for each unique text. Texts in passages come after them, see `PreparedTexts.means`.
        """
        n_texts, hidden_size = prepared.n_unique, self._engine.hidden_size
        n_states = self._engine.n_states
        shape = (n_texts, *([n_templates] if per_template else []), *([n_states] if per_layer else []), hidden_size)
        states = np.zeros(shape, np.float32)
        errors: list[str | None] = [None] * n_texts
        self._engine.runner.use_groups(prepared.groups)
        began, counted, self._busy_s = time.time(), self._count_batches(), 0.0
        texts_a_token = n_texts / max(1, sum(map(_n_tokens, prepared.batches)))
        for batch, outcome in self._outcomes(prepared):
            if self.on_texts is not None:
                self.on_texts(_n_tokens(batch) * texts_a_token)
            if isinstance(outcome, str):
                errors[batch[0].rows[0]] = outcome
                continue
            for cell, read in zip(batch, outcome, strict=True):
                state = read if n_states == 1 and not per_layer else read.reshape(*read.shape[:2], n_states, hidden_size)
                if n_states > 1 and not per_layer:
                    state = state.mean(2)
                add_states(states, state, cell.rows, prepared.groups[cell.group].template_indices, n_templates)
        done = DeviceWork(self._busy_s, began, time.time(), self._count_batches() - counted, self._reasons())
        self._work = [done] if prepared.batches else []
        if any(errors):
            reasons = sorted({error for error in errors if error is not None})
            logger.warning("%d of %d texts failed: %s", sum(map(bool, errors)), n_texts, ", ".join(reasons))
        return append_means(states, errors, prepared.means)

    def take_work(self) -> list[DeviceWork]:
        """Return what the device did in the last `run`, once; nothing where that had no batch."""
        work, self._work = self._work, []
        return work

    def _count_batches(self) -> Counter[str]:
        runner = self._engine.runner
        return Counter(runner.n_batches if isinstance(runner, PackedPass) else {_PATHS.get(runner.name, runner.name): self._n_finished})

    def _reasons(self) -> list[str]:
        runner, graphs = self._engine.runner, getattr(self._engine.runner, "graphs", None)
        packed = [*runner.refused.values()] if isinstance(runner, PackedPass) else []
        return list(dict.fromkeys([*self._engine.reasons, *packed, *([] if graphs is None else graphs.refused.values())]))

    def _outcomes(self, prepared: PreparedTexts) -> Iterator[tuple[Sequence[Cell], _Outcome]]:
        """Yield batches as they were run in the end, in the order of the plan, so that sums do not depend on which thread was faster."""
        waiting = deque(prepared.batches)
        running: deque[tuple[Sequence[Cell], Future[_Started]]] = deque()
        threads = self._threads = self._threads or start_threads(self.n_threads)
        while waiting or running:
            while waiting and len(running) <= self.n_threads:
                batch = waiting.popleft()
                if _n_tokens(batch) > self.max_batch_tokens and _can_halve(batch):
                    waiting.extendleft(reversed(_halves(batch)))
                    continue
                running.append((batch, threads.submit(self._start, batch, prepared.text_ids)))
            batch, ahead = running.popleft()
            outcome = self._finish(batch, ahead.result())
            self._adapt(batch, outcome)
            if isinstance(outcome, str) and _can_halve(batch):
                waiting.extendleft(reversed(_halves(batch)))
            else:
                yield batch, outcome

    def _start(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> _Started:
        """Run a batch, in a thread; on a GPU that is to launch it. What goes wrong is not raised: other rows are fine."""
        try:
            with self.on_device():
                watch = _Stopwatch(self._engine.device)
                states = self._engine.runner.run(batch, text_ids)
                watch.stop()
                return _Started([state.cpu().numpy() for state in states] if self.copier is None else self.copier.start(states), watch)
        except Exception as error:  # noqa: BLE001 - whatever one text does to the model, the others are embedded
            return _Started(_explain(batch, error), None)

    def on_device(self) -> AbstractContextManager[object]:
        """Make the engine's GPU the calling thread's own inside a `with`: a new thread begins with the first one."""
        device = self._engine.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def _finish(self, batch: Sequence[Cell], started: _Started) -> _Outcome:
        """Wait for a batch's results, while a GPU works on the next one already."""
        self._n_finished += 1
        try:
            outcome = started.outcome() if callable(started.outcome) else started.outcome
        except Exception as error:  # noqa: BLE001 - as above; what fails on a GPU may only show when its results are read
            return _explain(batch, error)
        if started.watch is not None:
            self._busy_s += started.watch.seconds() / self.n_threads
        return outcome

    def _adapt(self, batch: Sequence[Cell], outcome: _Outcome) -> None:
        """Take smaller batches after running out of memory, and slowly larger ones again."""
        if outcome == "oom":
            self._shrink(_n_tokens(batch))
        elif not isinstance(outcome, str):
            self._n_good += 1
            if self.max_batch_tokens < self._wanted and self._n_good % _BATCHES_UNTIL_RAISE == 0:
                self.max_batch_tokens = min(self._wanted, self.max_batch_tokens * 5 // 4 + 1)

    def _shrink(self, n_tokens: int) -> None:
        self.max_batch_tokens = max(1, min(self.max_batch_tokens, n_tokens // 2))
        self._n_good = 0
        logger.warning("out of memory with %d tokens in a batch: going on with at most %d", n_tokens, self.max_batch_tokens)
        if self._engine.device.type == "cuda":
            torch.cuda.empty_cache()


def _explain(batch: Sequence[Cell], error: Exception) -> str:
    """Return the code of what went wrong. The message of an error may quote a text, so only its type goes on."""
    if _is_out_of_memory(error):
        return "oom"
    n_rows = sum(len(cell.rows) for cell in batch)
    logger.warning("a batch of %d rows failed with %s; it is halved to find the row", n_rows, type(error).__name__)
    return f"error: {type(error).__name__}"


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: CUDA has an error class for it, the CPU allocator a RuntimeError recognisable only by its message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _n_tokens(batch: Sequence[Cell]) -> int:
    return sum(cell.n_tokens for cell in batch)


def _can_halve(batch: Sequence[Cell]) -> bool:
    return len(batch) > 1 or len(batch[0].rows) > 1


def _halves(batch: Sequence[Cell]) -> list[list[Cell]]:
    if len(batch) > 1:
        middle = len(batch) // 2
        return [list(batch[:middle]), list(batch[middle:])]
    cell, middle = batch[0], len(batch[0].rows) // 2
    n_row = cell.n_tokens // len(cell.rows)
    parts = (cell.rows[:middle], cell.rows[middle:])
    return [[dataclasses.replace(cell, rows=rows, n_tokens=n_row * len(rows))] for rows in parts]
