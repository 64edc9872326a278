"""Laws of the planner, on random lengths: every text once, no batch too large, threads kept equally busy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metaeol_udf.encoder.forward.batching import plan_batches

Lengths = list[dict[int, int]]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Lengths, list[int], int, int]:
    n_groups = draw(st.integers(1, 4))
    of_group = st.lists(st.integers(1, 60), max_size=80).map(lambda lengths: dict(enumerate(lengths)))
    lengths = draw(st.lists(of_group, min_size=n_groups, max_size=n_groups))
    n_suffixes = draw(st.lists(st.integers(0, 20), min_size=n_groups, max_size=n_groups))
    return lengths, n_suffixes, draw(st.integers(1, 400)), draw(st.integers(1, 5))


@given(problems())
def test_every_text_stands_in_one_cell_of_a_batch_that_is_not_too_large(problem: tuple[Lengths, list[int], int, int]) -> None:
    lengths, n_suffixes, max_batch_tokens, n_threads = problem
    batches = plan_batches(lengths, n_suffixes, max_batch_tokens, n_threads)
    placed = sorted((cell.group, row) for batch in batches for cell in batch for row in cell.rows)
    assert placed == sorted((group, row) for group, rows in enumerate(lengths) for row in rows)
    for batch in batches:
        for cell in batch:
            assert {lengths[cell.group][row] for row in cell.rows} == {cell.n_text_tokens}
            assert cell.n_tokens == len(cell.rows) * (cell.n_text_tokens + n_suffixes[cell.group])
        alone = len(batch) == 1 and len(batch[0].rows) == 1
        assert alone or sum(cell.n_tokens for cell in batch) <= max_batch_tokens


@given(st.lists(st.integers(5, 40), min_size=20, max_size=600), st.integers(1, 4))
def test_no_thread_works_much_longer_than_the_others(lengths: list[int], n_threads: int) -> None:
    busy = [0] * n_threads
    for batch in plan_batches([dict(enumerate(lengths))], [10], 1024, n_threads):
        busy[busy.index(min(busy))] += sum(cell.n_tokens for cell in batch)  # the lane that is free first takes the next batch
    least = sum(busy) / n_threads
    assert max(busy) - least <= (100 if n_threads > 1 else 0)  # two rows of the longest kind
