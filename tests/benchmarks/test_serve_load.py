"""The load benchmark tells answers from errors, and keeps each request's texts together."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.serve_load import cosine, load, metric
from tests.serving.test_server import FINGERPRINT, KnownEncoder, serving, vector_of


def test_answers_come_in_the_order_of_the_requests_and_errors_are_counted() -> None:
    with serving(KnownEncoder(), limits={"max_texts": 3}) as server:
        requests = [[f"text {n}" for n in range(size)] for size in (1, 2, 4, 3)]
        answers, seconds, total = load("127.0.0.1", server.port, FINGERPRINT, requests, 3)
        n_batches = metric(server.port, "metaeol_serve_batches")
    assert [len(answer) if isinstance(answer, list) else answer for answer in answers] == [1, 2, 400, 3]
    assert answers[3][2] == pytest.approx(vector_of("text 2"))
    assert max(seconds) <= total
    assert 1 <= n_batches <= 3
    answers, _, _ = load("127.0.0.1", server.port, FINGERPRINT, requests, 1)  # the server has ended
    assert answers == ["ConnectionRefusedError"] * 4


def test_a_cosine_is_of_the_directions() -> None:
    assert cosine([2.0, 0.0], np.array([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))
