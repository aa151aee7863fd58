"""Training on any number of ranks, started by Spark or by torchrun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iotid import config

if TYPE_CHECKING:
    from iotid.training.launch import train_on_ranks

__all__ = ["made_by", "train_on_ranks"]


def made_by(model: config.Model, training: config.Training, dataset_hash: str) -> str:
    """Names all that a trained model depends on."""
    return config.settings_hash(model, training, extra={"dataset": dataset_hash})


def __getattr__(name: str) -> Any:  # torch is loaded only by those who train
    if name in __all__:
        from iotid.training import launch

        return getattr(launch, name)
    raise AttributeError(name)
