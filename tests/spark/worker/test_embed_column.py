"""Re-batching, without Spark: the encoder is stood in for, so that windows can be seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pytest

from metaeol_udf.delta.write.waves import task_count
from metaeol_udf.encoder import Encoded
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spark.udf import RESULT_TYPE
from metaeol_udf.spark.worker import embed_column, encoder_cache
from metaeol_udf.spark.worker.devices import task_gpus
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, LoadedEncoder
from metaeol_udf.spec import EmbeddingSpec
from tests.specs import without_files


class _Lengths:
    """Encodes a text as its length and its place in the chunk."""

    def __init__(self) -> None:
        self.chunks: list[int] = []

    def encode_batches(self, texts: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        return map(self._encode, texts)

    def _encode(self, texts: Sequence[str | None]) -> Encoded:
        self.chunks.append(len(texts))
        vectors = np.array([[len(text or ""), i] for i, text in enumerate(texts)], np.float32)
        vectors[[text == "nan" for text in texts]] = np.nan
        errors = [None if text else "null_text" for text in texts]
        zeros = np.zeros(len(texts), np.int64)
        return Encoded(vectors, errors, zeros.astype(bool), zeros, zeros)


@pytest.fixture
def request_and_encoder(monkeypatch: pytest.MonkeyPatch) -> tuple[EncoderRequest, _Lengths]:
    encoder = _Lengths()
    spec = EmbeddingSpec(model="m", templates_json=TemplateSet.load("metaeol").to_json(), model_hash="h")
    monkeypatch.setattr(embed_column, "get_encoder", lambda request: LoadedEncoder(encoder, "here:1:0:"))  # type: ignore[arg-type]
    return EncoderRequest(without_files(spec), "cpu"), encoder


def _lengths(frames: Sequence[pd.DataFrame]) -> list[float | None]:
    return [None if vector is None else float(vector[0]) for frame in frames for vector in frame["vector"]]


def test_small_arrow_batches_are_joined_into_one_chunk(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, encoder = request_and_encoder
    texts = ["x" * n for n in range(1, 31)]
    batches = [pd.Series(texts[i : i + 3]) for i in range(0, 30, 3)]
    frames = list(embed_column.embed_column(request, iter(batches)))
    assert encoder.chunks == [30]
    assert _lengths(frames) == [float(n) for n in range(1, 31)]


def test_long_texts_close_a_chunk_and_rows_keep_their_order(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, encoder = request_and_encoder
    texts = ["x" * (2000 + n) for n in range(40)]
    frames = list(embed_column.embed_column(request, iter([pd.Series(texts)])))
    assert len(encoder.chunks) > 1
    assert sum(encoder.chunks) == 40
    assert _lengths(frames) == [float(len(text)) for text in texts]


def test_a_chunk_never_holds_more_rows_than_its_bound(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, encoder = request_and_encoder
    list(embed_column.embed_column(request, iter([pd.Series([None] * 10_000, dtype=object)])))
    assert encoder.chunks == [4096, 4096, 1808]


def test_a_gpu_gets_chunks_of_many_forward_passes(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, encoder = request_and_encoder
    texts = pd.Series(["a text of forty characters, and no more."] * 20_000)
    list(embed_column.embed_column(dataclasses.replace(request, device="cuda"), iter([texts])))
    assert encoder.chunks == [8192, 8192, 3616]


@pytest.mark.parametrize(
    ("device", "limits"), [("auto", embed_column.ON_GPU), ("cuda:1", embed_column.ON_GPU), ("cpu", embed_column.ON_CPU)]
)
def test_chunks_follow_the_device(device: str, limits: embed_column.ChunkLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_column, "has_cuda", lambda: True)
    embed_column.chunk_limits.cache_clear()
    assert embed_column.chunk_limits(device) == limits
    embed_column.chunk_limits.cache_clear()


def test_empty_batches_and_no_batches_never_ask_for_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EmbeddingSpec(model="m", templates_json=TemplateSet.load("metaeol").to_json(), model_hash="h")

    def refuse(request: EncoderRequest) -> LoadedEncoder:
        raise AssertionError("asked for")

    monkeypatch.setattr(embed_column, "get_encoder", refuse)
    assert list(embed_column.embed_column(EncoderRequest(without_files(spec)), iter([]))) == []
    assert list(embed_column.embed_column(EncoderRequest(without_files(spec)), iter([pd.Series([], dtype=object)]))) == []


def test_missing_and_not_finite_vectors_are_none_with_their_reason(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, _ = request_and_encoder
    frame = next(embed_column.embed_column(request, iter([pd.Series(["abc", None, "nan"], dtype=object)])))
    assert frame["error"].tolist() == [None, "null_text", "non_finite"]
    assert [vector is None for vector in frame["vector"]] == [False, True, True]
    assert frame["vector"][0].dtype == np.float32


def test_the_frame_of_a_chunk_has_the_columns_that_spark_is_told_of() -> None:
    frame = embed_column.result_frame(np.ones((2, 3), np.float32), [None, "oom"], "load", work="[]")
    assert list(frame.columns) == RESULT_TYPE.names
    assert frame["work"].tolist() == ["[]", None]
    assert frame["vector"][0].tolist() == [1, 1, 1]
    assert frame["vector"][1] is None
    empty = embed_column.result_frame(np.ones((0, 3), np.float32), [], "load", work="[]")
    assert list(empty.columns) == RESULT_TYPE.names
    assert len(empty) == 0


def test_a_worker_of_another_version_refuses_before_it_loads(request_and_encoder: tuple[EncoderRequest, _Lengths]) -> None:
    request, _ = request_and_encoder
    with pytest.raises(EnvironmentFault, match=r"metaeol-udf is 0\.0\.0 on the driver"):
        encoder_cache.get_encoder(dataclasses.replace(request, versions={**request.versions, "metaeol-udf": "0.0.0"}))


def test_a_gpu_that_is_required_and_absent_is_an_environment_fault() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentFault, match="torch sees no GPU"):
        task_gpus("cuda")
    assert task_gpus("auto") == ()


@pytest.mark.parametrize(
    ("n_texts", "n_slots", "n_tasks"), [(1, 2, 1), (64, 2, 1), (65, 2, 2), (300, 2, 4), (10_000, 2, 6), (300, 64, 5), (64 * 65, 64, 64)]
)
def test_every_slot_gets_as_many_tasks_as_the_others(n_texts: int, n_slots: int, n_tasks: int) -> None:
    assert task_count(n_texts, n_slots) == n_tasks
