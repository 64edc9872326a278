"""Models larger than one GPU: layers stand on several devices, and a batch passes from each to the next."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.decoder import Decoder, Layer, V, map_tensors
from metaeol_udf.errors import EnvironmentFault

_DEVICE_SHARE = 0.8  # of a GPU's free memory may hold weights; the rest is for activations and prefixes

DeviceOf = Callable[[Layer], torch.device]


@dataclass(frozen=True)
class Stage:
    """Describes layers next to each other that stand on one device."""

    device: torch.device
    layers: range


def device_of(layer: Layer) -> torch.device:
    """Return the device that a layer's weights are on."""
    return layer.qkv.weight.device


def find_stages(decoder: Decoder, where: DeviceOf = device_of) -> tuple[Stage, ...]:
    """Group a decoder's layers by device, in order; `where` says on which device each one is."""
    stages: list[Stage] = []
    for index, layer in enumerate(decoder.layers):
        if stages and stages[-1].device == where(layer):
            stages[-1] = Stage(stages[-1].device, range(stages[-1].layers.start, index + 1))
        else:
            stages.append(Stage(where(layer), range(index, index + 1)))
    return tuple(stages)


def move(value: V, device: torch.device) -> V:
    """Return a decoder, a part of one or a cell's layout on another device."""
    return map_tensors(value, lambda tensor: tensor.to(device))


def fill_devices(sizes: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """Choose the device that each layer goes to: as few devices as hold them all, in order.

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
    """Move a decoder to devices, layers in place one after the other; embeddings go to the first, the final norm to the last in use.

    Raises:
        EnvironmentFault: It does not fit.
    """
    outside = (decoder.token_table, decoder.position_table, decoder.ropes)
    n_outside = count_bytes(outside)
    places = fill_devices([count_bytes(layer) for layer in decoder.layers], [rooms[0] - n_outside, *rooms[1:]])
    for index, which in enumerate(places):
        decoder.layers[index] = move(decoder.layers[index], devices[which])
    last = devices[places[-1]] if places else devices[0]
    norm = None if decoder.final_norm is None else move(decoder.final_norm, last)
    outside_layers = move(dataclasses.replace(decoder, layers=[], final_norm=None), devices[0])
    return dataclasses.replace(outside_layers, layers=decoder.layers, final_norm=norm)


def count_bytes(value: Any) -> int:
    """Count the bytes of a tensor, or of all tensors in a sequence or a dataclass."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value if isinstance(value, (tuple, list)) else [getattr(value, field.name) for field in _fields(value)]
    return sum(map(count_bytes, parts))


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def room_for_weights(device: torch.device) -> int:
    """Count the bytes of a device that weights may take."""
    return int(torch.cuda.mem_get_info(device)[0] * _DEVICE_SHARE) if device.type == "cuda" else sys.maxsize
