"""Models larger than one GPU: layers stand on several devices, and a batch passes from each to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaeol_udf.encoder.attention import Layout
from metaeol_udf.encoder.decoder import Decoder, Layer, V, map_tensors
from metaeol_udf.errors import EnvironmentFault

DeviceOf = Callable[[Layer], torch.device]


@dataclass(frozen=True)
class Stage:
    """Layers next to each other that stand on one device."""

    device: torch.device
    layers: range


def device_of(layer: Layer) -> torch.device:
    """Where a layer's weights are."""
    return layer.attention_norm.weight.device


def find_stages(decoder: Decoder, where: DeviceOf = device_of) -> tuple[Stage, ...]:
    """A decoder's layers by device, in order; `where` says on which device each one is."""
    stages: list[Stage] = []
    for index, layer in enumerate(decoder.layers):
        if stages and stages[-1].device == where(layer):
            stages[-1] = Stage(stages[-1].device, range(stages[-1].layers.start, index + 1))
        else:
            stages.append(Stage(where(layer), range(index, index + 1)))
    return tuple(stages)


def move_layout(layout: Layout, device: torch.device) -> Layout:
    """A cell's layout on another device."""
    return dataclasses.replace(
        layout,
        positions=layout.positions.to(device),
        outputs=layout.outputs.to(device),
        masks={window: mask.to(device) for window, mask in layout.masks.items()},
        rotations={key: (cos.to(device), sin.to(device)) for key, (cos, sin) in layout.rotations.items()},
    )


def fill_devices(sizes: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """Which device each layer goes to: as few devices as hold them all, in order.

    Args:
        sizes: Bytes of each layer.
        rooms: Bytes that each device has for layers.

    Raises:
        EnvironmentFault: They do not fit.
    """
    found, device, taken = [], 0, 0
    for size in sizes:
        while device < len(rooms) and taken + size > rooms[device]:
            device, taken = device + 1, 0
        found.append(device)
        taken += size
    if device >= len(rooms):
        gib = 2**30
        raise EnvironmentFault(
            f"the model's layers take {sum(sizes) / gib:.1f} GiB and the GPUs of this task have room for "
            f"{', '.join(f'{room / gib:.1f}' for room in rooms)} GiB: lease more GPUs to a task "
            "(spark.task.resource.gpu.amount), or set embedding.quantization to int8 or int4"
        )
    return found


def place(decoder: Decoder, devices: Sequence[torch.device], rooms: Sequence[int]) -> Decoder:
    """Move a decoder to devices, layers one after the other; embeddings go to the first, the final norm to the last in use.

    Raises:
        EnvironmentFault: It does not fit.
    """
    outside = (decoder.token_table, decoder.position_table, decoder.ropes)
    n_outside = count_bytes(outside)
    places = fill_devices([count_bytes(layer) for layer in decoder.layers], [rooms[0] - n_outside, *rooms[1:]])
    layers = list(decoder.layers)
    decoder = dataclasses.replace(decoder, layers=[])
    for index, which in enumerate(places):
        layers[index] = _moved(layers[index], devices[which])
    last = devices[places[-1]] if places else devices[0]
    norm = None if decoder.final_norm is None else _moved(decoder.final_norm, last)
    ropes = tuple((cos.to(devices[0]), sin.to(devices[0])) for cos, sin in decoder.ropes)
    first: Decoder = _moved(decoder, devices[0])
    return dataclasses.replace(first, layers=layers, final_norm=norm, ropes=ropes)


def count_bytes(value: Any) -> int:
    """Bytes of a tensor, or of all in a sequence or a dataclass."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value if isinstance(value, (tuple, list)) else [getattr(value, field.name) for field in _fields(value)]
    return sum(map(count_bytes, parts))


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def _moved(value: V, device: torch.device) -> V:
    return map_tensors(value, lambda tensor: tensor.to(device))
