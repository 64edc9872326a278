"""Weights in 8 and 4 bits, and 8-bit floating point: this package's linear layers beside torchao's, by time and closeness to whole weights.

    python -m benchmarks.quantized [--device cpu|cuda] [--shape 135M|0.5B|1.5B|8B] [--tokens N,...] [--seconds S]

One layer's linear parts with random weights, over as many tokens as a batch of this engine holds and over few, as text generation has
them. torchao takes part where it is installed (pip install torchao): `Int8WeightOnlyConfig`, and `Int4WeightOnlyConfig` in its tiled
format, the one that needs no further library; it has kernels for GPUs only.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.gpu import SHAPES, Shape, seconds_of
from benchmarks.results import Row, describe_machine, show
from metaeol_udf.encoder.forward.decoder import Layer, Linear, Mlp, Norm
from metaeol_udf.encoder.forward.quantization import quantize


def make_linears(shape: Shape, device: torch.device) -> list[Linear]:
    """Linear parts of one layer, in bfloat16."""
    n_query, n_key = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    sizes = [
        (n_query + 2 * n_key, shape.hidden_size), (shape.hidden_size, n_query),
        (2 * shape.intermediate_size, shape.hidden_size), (shape.hidden_size, shape.intermediate_size),
    ]  # fmt: skip
    return [Linear(torch.randn(n_out, n_in, dtype=torch.bfloat16, device=device) * n_in**-0.5) for n_out, n_in in sizes]


def quantize_here(linears: list[Linear], kind: str) -> list[Linear]:
    """As the engine does."""
    norm = Norm(torch.ones(1), None, 0.0)
    layer = Layer(norm, linears[0], None, None, linears[1], None, norm, Mlp(linears[2], linears[3], "silu", True), None, 1.0)
    quantized = quantize(layer, kind)
    return [quantized.qkv, quantized.attention_out, quantized.mlp.into, quantized.mlp.out]


def quantize_by_torchao(linears: list[Linear], kind: str) -> list[Linear]:
    """The same weights as torchao's tensors; what multiplies them is torchao's too.

    Raises:
        ImportError: torchao is not installed.
        RuntimeError: Its format has no kernels for the device.
    """
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig(version=2) if kind == "int8" else Int4WeightOnlyConfig(32, int4_packing_format="tile_packed_to_4d")
    found = []
    for linear in linears:
        module = nn.Linear(linear.weight.shape[1], linear.weight.shape[0], bias=False, device="meta")
        module.weight = nn.Parameter(linear.weight, requires_grad=False)
        quantize_(module, config)
        found.append(Linear(module.weight.data))
    return found


def run_all(linears: list[Linear], inputs: list[Tensor]) -> list[Tensor]:
    return [linear(x) for linear, x in zip(linears, inputs, strict=True)]


def measure(linears: list[Linear], n_tokens: int, least: float) -> list[Row]:
    """A row for each way of keeping the weights."""
    device = linears[0].weight.device
    inputs = [torch.randn(n_tokens, linear.weight.shape[1], dtype=torch.bfloat16, device=device) for linear in linears]
    whole = run_all(linears, inputs)
    seconds = seconds_of(lambda: run_all(linears, inputs), device, least)
    rows: list[Row] = [{"tokens": n_tokens, "weights": "bfloat16", "ms": round(1000 * seconds, 2), "time": 1.0, "worst cosine": 1.0}]
    for name, change in (("metaeol-udf", quantize_here), ("torchao", quantize_by_torchao)):
        for kind in ("int8", "int4") if change is quantize_by_torchao else ("int8", "int4", "fp8"):
            try:
                changed = change(linears, kind)
            except (ImportError, AssertionError, ValueError, RuntimeError) as error:  # what torchao raises where it has no kernels
                print(f"{name} {kind}: not measured, {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                continue
            closeness = min(
                float(cosine_similarity(a.float(), b.float()).min()) for a, b in zip(run_all(changed, inputs), whole, strict=True)
            )
            took = seconds_of(lambda changed=changed: run_all(changed, inputs), device, least)  # type: ignore[misc]
            rows.append(
                {
                    "tokens": n_tokens,
                    "weights": f"{name} {kind}",
                    "ms": round(1000 * took, 2),
                    "time": round(took / seconds, 2),
                    "worst cosine": round(closeness, 5),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="1.5B")
    parser.add_argument("--tokens", default="16,1024")
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    with torch.inference_mode():
        linears = make_linears(SHAPES[arguments.shape], torch.device(arguments.device))
        rows = [row for n in arguments.tokens.split(",") for row in measure(linears, int(n), arguments.seconds)]
    print(f"{describe_machine()}\nlinear layers of one layer, {arguments.shape}")
    show(rows)


if __name__ == "__main__":
    main()
