"""The adaptive ensemble, the device model, and model bundles (the files of a trained model)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.model.bundle import Predictor, save_bundle
    from iotid.model.network.ensemble import AdaptiveEnsemble

__all__ = [
    "AdaptiveEnsemble",
    "Predictor",
    "save_bundle",
]

# imported on first use: they import torch
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundle": ["Predictor", "save_bundle"],
        "network.ensemble": ["AdaptiveEnsemble"],
    },
)
