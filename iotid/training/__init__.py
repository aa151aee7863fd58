"""Training on any number of ranks, started by Spark or by torchrun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.training.launch import train_on_ranks

__all__ = ["train_on_ranks"]


def __getattr__(name: str) -> Any:  # torch is loaded only by those who train
    if name in __all__:
        from iotid.training import launch

        return getattr(launch, name)
    raise AttributeError(name)
