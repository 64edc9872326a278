"""Faults 7 to 10: what the model does to single texts, and memory."""

from __future__ import annotations

from typing import Any

import pytest
from bench import Bench
from injection import meddle, once

from metaeol_udf.errors import EnvironmentFault

TEXTS = {n: f"text number {n} " + "word " * n for n in range(12)}


def _poison_longest(encoder: Any) -> None:
    run = encoder.engine.runner.run

    def fail(batch: Any, ids: Any) -> Any:
        if any(len(ids[cell.group][row]) > 30 for cell in batch for row in cell.rows):
            raise ValueError("a text that nobody may read")
        return run(batch, ids)

    encoder.engine.runner.run = fail


def test_fault_07_a_row_that_breaks_the_model_is_isolated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([*TEXTS.items(), (99, "poison " * 40)])
    meddle(monkeypatch, with_encoder=_poison_longest)
    report = bench.run()
    rows = bench.rows()
    assert rows[99]["embedding_error"] == "error: ValueError"
    assert (report["rows_embedded"], report["rows_failed"]) == (12, 1)
    assert report["model_loads"] <= 2, "a worker died and loaded the model again"
    assert bench.rows("table__metaeol_quarantine")[99]["reason"] == "error: ValueError"
    bench.table().where("id < 99").write.format("delta").mode("overwrite").save(bench.path)
    bench.check_all_right(TEXTS)


def _nan_for_first(encoder: Any) -> None:
    run = encoder.engine.runner.run

    def spoil(batch: Any, ids: Any) -> Any:
        states = [state.clone() for state in run(batch, ids)]
        for cell, state in zip(batch, states, strict=True):
            state[[row == 0 for row in cell.rows]] = float("inf")
        return states

    encoder.engine.runner.run = spoil


def test_fault_08_infinity_is_an_error_of_its_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    with monkeypatch.context() as patch:
        meddle(patch, with_encoder=_nan_for_first)
        report = bench.run()
    failed = [row for row in bench.rows().values() if row["embedding_error"]]
    assert {row["embedding_error"] for row in failed} == {"non_finite"}
    assert report["rows_failed"] == len(failed) >= 1
    assert report["rows_embedded"] == len(TEXTS) - len(failed)
    assert all((row["embedding"] is None) == (row["embedding_error"] is not None) for row in bench.rows().values())


def _wrong_shape(encoder: Any) -> None:
    import dataclasses

    stream = type(encoder).encode_batches

    def shortened(texts: Any) -> Any:
        for encoded in stream(encoder, texts):
            yield dataclasses.replace(encoded, vectors=encoded.vectors[:-1])

    encoder.encode_batches = shortened


def test_fault_08_vectors_of_a_wrong_shape_end_the_job_without_a_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    with monkeypatch.context() as patch:
        meddle(patch, with_encoder=_wrong_shape)
        with pytest.raises(Exception, match="the encoder returned vectors of shape"):
            bench.run()
    assert bench.table().where("embedding IS NOT NULL").isEmpty()
    assert bench.run()["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def _small_memory(encoder: Any) -> None:
    import torch

    run = encoder.engine.runner.run

    def limited(batch: Any, ids: Any) -> Any:
        if sum(cell.n_tokens for cell in batch) > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch, ids)

    encoder.engine.runner.run = limited


def test_fault_09_out_of_gpu_memory_halves_the_batch_and_then_gives_up_the_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([*TEXTS.items(), (99, "much too long for this memory " * 60)])
    with monkeypatch.context() as patch:
        meddle(patch, with_encoder=_small_memory)
        report = bench.run(embedding={"max_tokens": 400})
    rows = bench.rows()
    assert rows[99]["embedding_error"] == "oom"
    assert (report["rows_embedded"], report["rows_failed"]) == (12, 1)
    assert report["model_loads"] <= 2


@pytest.mark.gpu
def test_fault_09_out_of_memory_on_a_real_gpu(bench: Bench) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("the real thing needs a GPU")
    bench.write(list(TEXTS.items()))
    held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
    try:
        report = bench.run(runtime={"device": "cuda"})
    finally:
        del held
        torch.cuda.empty_cache()
    assert report["rows_embedded"] + report["rows_failed"] == len(TEXTS)


def _never_memory(texts: list[str]) -> None:
    raise MemoryError


def test_fault_10_a_task_without_host_memory_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    meddle(monkeypatch, before=once(bench.folder / "mark", "memory"))
    assert bench.run()["rows_embedded"] == len(TEXTS)
    assert (bench.folder / "mark").exists()
    bench.check_all_right(TEXTS)


def test_fault_10_lasting_want_of_host_memory_is_exit_status_5_with_advice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    meddle(monkeypatch, before=_never_memory)
    with pytest.raises(EnvironmentFault, match=r"max_batch_tokens.*memoryOverhead") as caught:
        bench.run()
    assert caught.value.exit_code == 5
