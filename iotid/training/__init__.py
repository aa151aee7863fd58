"""Distributed training: ranks started by Spark or by torchrun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.training.launch import train_on_ranks
    from iotid.training.step import Trained, fingerprint, train

__all__ = ["Trained", "fingerprint", "train", "train_on_ranks"]

# lazy: these import torch
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "launch": ["train_on_ranks"],
        "step": ["Trained", "fingerprint", "train"],
    },
)
