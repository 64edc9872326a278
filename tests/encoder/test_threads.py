"""Threads that share the cores: how many each may use, and what is left of the caller's own number."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier

import pytest
import torch

from metaeol_udf.encoder.forward.threads import start_threads


@pytest.fixture
def n_threads() -> Iterator[int]:
    """A number of threads that divides by two, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def test_threads_divide_the_cores_and_leave_the_caller_its_own(n_threads: int) -> None:
    threads, both = start_threads(2), Barrier(2)

    def used() -> int:
        both.wait(30)  # so that no lane answers for the other
        torch.ones(1 << 20).add_(1)  # an operation that would start threads
        return torch.get_num_threads()

    answers = [threads.submit(used) for _ in range(2)]
    assert [answer.result(60) for answer in answers] == [n_threads // 2, n_threads // 2]
    assert torch.get_num_threads() == n_threads
