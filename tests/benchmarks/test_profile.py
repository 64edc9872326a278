from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.profile import profile_chunk, time_chunk
from metaeol_udf import MetaEOLEncoder, TemplateSet

TEXTS = ["One.", "A man plays a guitar on a stage in front of many people", 'She said: "no"?', "Rates rose again."]


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> MetaEOLEncoder:
    templates = TemplateSet.load("metaeol-fast")
    return MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=templates, dtype="float32", device="cpu")


def test_all_kinds_of_work_are_told_apart_in_a_chunk(encoder: MetaEOLEncoder) -> None:
    seconds = profile_chunk(encoder, TEXTS, show_operations=False)
    assert {"GEMM", "attention", "copies", "element-wise and other", "tokeniser", "planning", "Arrow"} == set(seconds)
    assert all(spent >= 0 for spent in seconds.values())
    assert min(seconds["GEMM"], seconds["attention"], seconds["tokeniser"]) > 0


def test_a_window_is_timed_with_its_page_faults(encoder: MetaEOLEncoder) -> None:
    figures = re.fullmatch(
        r"([\d.]+) s, ([\d.]+) s of processors, ([\d.]+) s of them the system's, ([\d,]+) page faults", time_chunk(encoder, TEXTS)
    )
    assert figures is not None
    assert float(figures[3]) <= float(figures[2])
