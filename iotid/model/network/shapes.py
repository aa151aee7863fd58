"""The shapes of an ensemble's weights, for checks of a file before anything of it is read; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iotid import config


def shapes(settings: config.Model, vocabulary_sizes: Mapping[str, int], num_classes: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an ensemble's weights, without allocating an ensemble."""
    hidden, both_directions = settings.hidden_size, 2 * settings.hidden_size
    inputs = len(vocabulary_sizes) if settings.fusion == "concatenate" else 1
    networks = {f"temporal.{name}": settings.embedding_size for name in vocabulary_sizes}
    networks["spatial"] = inputs * both_directions
    found: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}.weight": (size, settings.embedding_size) for name, size in vocabulary_sizes.items()
    }
    for network, input_size in networks.items():
        for layer in range(settings.layers):
            for of in (f"l{layer}", f"l{layer}_reverse"):
                found[f"{network}.weight_ih_{of}"] = (4 * hidden, both_directions if layer else input_size)
                found[f"{network}.weight_hh_{of}"] = (4 * hidden, hidden)
                found[f"{network}.bias_ih_{of}"] = found[f"{network}.bias_hh_{of}"] = (4 * hidden,)
    return {**found, "classifier.weight": (num_classes, both_directions), "classifier.bias": (num_classes,)}
