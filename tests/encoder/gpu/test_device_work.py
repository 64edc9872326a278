"""What a device did is counted: how long it was at work, which way batches took, and why not a faster one."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from tests.encoder.test_exactness import TEXTS


def load(folder: Path, max_batch_tokens: int = 256) -> MetaEOLEncoder:
    templates = TemplateSet.load("metaeol")
    return MetaEOLEncoder.from_pretrained(
        str(folder), templates=templates, dtype="float32", device="cpu", max_batch_tokens=max_batch_tokens
    )


def test_batches_and_seconds_of_a_list_of_texts_are_counted_once(tiny_model: Callable[..., Path]) -> None:
    encoder = load(tiny_model("llama"))
    before = time.time()
    (first,), (second,) = [encoded.work for encoded in encoder.encode_batches([TEXTS, TEXTS[:1]])]
    assert set(first.batches) == {"cells"}
    assert first.batches["cells"] > second.batches["cells"] >= 1
    assert before <= first.began <= first.ended <= second.began <= second.ended <= time.time()  # type: ignore[operator]
    assert 0 < first.busy_s <= first.span_s
    assert first.reasons == []
    assert encoder.batch_runner.take_work() == []


def test_work_that_nobody_takes_does_not_pile_up(tiny_model: Callable[..., Path]) -> None:
    encoder = load(tiny_model("llama"))
    for _ in range(3):
        encoder.encode(TEXTS[:1])
    assert [work.batches for work in encoder.batch_runner.take_work()] == [Counter({"cells": 1})]


def test_a_runner_of_another_family_is_named_with_the_reason(tiny_model: Callable[..., Path]) -> None:
    (work,) = load(tiny_model("gpt_neox")).encode_rows(["a text"]).work
    assert work.batches == Counter({"stream": 1})
    assert work.reasons == ["decoder: architecture 'gpt_neox' is not one of " + work.reasons[0].rpartition(" is not one of ")[2]]


def test_the_way_of_each_batch_and_what_was_refused_are_counted_where_batches_are_packed(tiny_model: Callable[..., Path]) -> None:
    encoder = load(tiny_model("llama"))
    decoder = dataclasses.replace(encoder.engine.runner.decoder)

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel")

    packed = PackedPass(decoder, encoder.engine.trie.groups, least_full=0.0, layer_function=fail)
    packed.graphs = GraphCache(torch.device("cpu"))
    packed.graphs._refuse("a shape", "it cannot be recorded")
    object.__setattr__(encoder.engine, "runner", packed)
    encoder.batch_runner = BatchRunner(encoder.engine, 256)
    (work,) = encoder.encode_rows(TEXTS).work
    assert work.batches["cells"] == packed.n_batches["cells"] > 0
    assert work.reasons == ["RuntimeError: no kernel", "it cannot be recorded"]
    (later,) = encoder.encode_rows(TEXTS[:1]).work
    assert later.batches["cells"] == packed.n_batches["cells"] - work.batches["cells"]


def test_a_batch_that_fails_is_counted_and_what_it_took_is_not(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(tiny_model("llama"))

    def fail(batch: Sequence[Any], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[torch.Tensor]:
        raise ValueError

    monkeypatch.setattr(encoder.engine.runner, "run", fail)
    encoded = encoder.encode_rows(["a", "b"])
    assert encoded.errors == ["error: ValueError"] * 2
    assert [work.busy_s for work in encoded.work] == [0]
    assert encoded.work[0].batches["cells"] >= 2


def test_work_is_the_same_after_its_way_through_a_table() -> None:
    work = DeviceWork(1.5, 10.0, 12.0, Counter(graph=3, cells=1), ["why"])
    read = DeviceWork()
    read.add_json(json.dumps([vars(work)]))
    assert read == work
    work.add(DeviceWork(0.5, 9.0, 11.0, Counter(cells=2), ["why", "why too"]))
    assert work == DeviceWork(2.0, 9.0, 12.0, Counter(graph=3, cells=3), ["why", "why too"])
    assert work.span_s == 3.0
    work.add(DeviceWork())
    assert work.span_s == 3.0
    assert DeviceWork().span_s == 0.0
