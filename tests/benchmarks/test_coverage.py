"""The table of docs/models.md comes from the encoder itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.coverage import BEGIN, END, main, try_architecture
from metaeol_udf.encoder.checkpoint.architectures import RUN_WHOLE
from metaeol_udf.encoder.checkpoint.families import FAMILIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@pytest.mark.parametrize(("name", "runner"), [
    pytest.param("qwen2_moe", "stream", marks=pytest.mark.slow), ("lfm2", "fork"), pytest.param("rwkv", "whole", marks=pytest.mark.slow),
    ("bert", "refused"),
])  # fmt: skip
def test_an_architecture_is_tried_through_the_package(name: str, runner: str) -> None:
    result = try_architecture(name)
    assert result.runner == runner
    if runner == "refused":
        assert "no causal language model" in result.why
    else:
        assert result.cosine is not None
        assert result.cosine >= 0.99999


def test_a_page_gets_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(["olmo", "--write", str(page)])
    text = page.read_text()
    assert "| `olmo` | stream | 1.000000 |" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")


def test_the_architectures_that_run_whole_and_on_our_decoder_are_those_of_the_page() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    tried = {row[1].strip(" `"): row[2].strip() for row in rows if len(row) == 7}
    assert {name for name, runner in tried.items() if runner == "whole"} <= RUN_WHOLE
    assert not {name for name in RUN_WHOLE if tried.get(name) in ("stream", "fork", "decoder")}
    assert {tried[name] for name in FAMILIES if name in tried} == {"decoder"}
