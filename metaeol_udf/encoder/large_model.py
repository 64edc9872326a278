"""Makes a transformers model fit where it runs: its layers quantized, and spread over several devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from metaeol_udf.encoder.checkpoint.process_memory import release_clean_pages, return_freed_memory
from metaeol_udf.encoder.generic.few_bits import quantize_modules
from metaeol_udf.encoder.generic.placement import count_module_bytes, place_layers
from metaeol_udf.encoder.generic.text_model import drop_weights, find_layers
from metaeol_udf.encoder.gpu.device_map import fill_devices, room_for_weights


def settle_model(model: Any, n_layers: int, quantization: str | None, devices: Sequence[torch.device]) -> None:
    """Quantize a model and move it to its devices, in place.

    Args:
        model: A base model that takes text, on the CPU.
        n_layers: Layers that run; the weights of those above are given up.
        quantization: One of `spec.QUANTIZATIONS`, or None.
        devices: As few of them are used as hold the model.

    Raises:
        EnvironmentFault: It does not fit.
        TypeError: Its weights cannot be quantized that way.
    """
    all_layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    layers = all_layers[:n_layers]
    drop_weights(all_layers[n_layers:])
    for layer in layers:
        if quantization is not None:
            quantize_modules(layer, quantization)
            return_freed_memory()
            release_clean_pages()
    rooms = [room_for_weights(device) for device in devices]
    n_outside = count_module_bytes([model]) - count_module_bytes(layers)
    places = fill_devices([count_module_bytes([layer]) for layer in layers], [rooms[0] - n_outside, *rooms[1:]])
    place_layers(model, all_layers, [devices[place] for place in places], devices[0])
