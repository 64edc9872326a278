"""Weights in few bits: the comparison runs, and says what it could not measure."""

from __future__ import annotations

import sys

import pytest

from benchmarks import quantized


def test_whole_and_quantized_weights_are_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.quantized", "--shape", "135M", "--tokens", "3", "--seconds", "0"])
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)  # as where it is not installed
    quantized.main()
    out = capsys.readouterr().out
    assert out.count("not measured, ModuleNotFoundError") == 2
    cells = [line.split(" | ") for line in out.splitlines() if line.startswith("| 3 | ")]
    closeness = {line[1]: float(line[4].rstrip(" |")) for line in cells}
    assert list(closeness) == ["bfloat16", "metaeol-udf int8", "metaeol-udf int4", "metaeol-udf fp8"]
    assert closeness["bfloat16"] == 1
    assert closeness["metaeol-udf fp8"] > 0.998
    assert closeness["metaeol-udf int8"] > 0.9999
    assert 0.98 < closeness["metaeol-udf int4"] < closeness["metaeol-udf int8"]
