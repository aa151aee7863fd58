"""Atomic checkpoints of a training: tensors in safetensors, the rest in JSON, nothing pickled.

The tensors are written first, under a new name; then the JSON file that names them is replaced atomically. A process
that dies in between leaves the previous checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from safetensors import torch as safetensors

from iotid.inputs import parse_object, read_file
from iotid.model.arrays import Spec, read_arrays
from iotid.model.bundle import write_atomically
from iotid.schemas import typed
from iotid.schemas.typed import Count

_log = logging.getLogger(__name__)

_DESCRIPTION = "checkpoint.json"


class _Stored(TypedDict):
    fingerprint: str
    epoch: Count
    batch: Count
    loss_sum: float
    best_epoch: Count
    history: list[dict[str, float]]


@dataclass
class Checkpoint:
    """A run after ``epoch`` epochs and ``batch`` batches of the next one, with the sum of its losses ``loss_sum``.

    Random states are not stored: they follow from (seed, epoch, batch, rank). ``fingerprint`` identifies the settings
    and rows of the run; ``tensors`` are the model's, the best model's and the optimiser's.
    """

    fingerprint: str
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write this checkpoint, then remove the previous one."""
        description, tensors = self.to_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / self._tensors_name, tensors)
        write_atomically(folder / _DESCRIPTION, description)
        for other in folder.glob("epoch-*.safetensors"):
            if other.name != self._tensors_name:
                other.unlink()

    @classmethod
    def load(cls, folder: Path, fingerprint: str, specs: Mapping[str, Spec]) -> Checkpoint:
        """The folder's checkpoint if it is valid and of the same settings and rows, else an empty one.

        ``specs``: expected names, types and shapes of its tensors.
        """
        path = folder / _DESCRIPTION
        if not path.exists():
            return cls(fingerprint)
        try:
            found = cls(**_parse(read_file(path)))
            if found.fingerprint == fingerprint:
                arrays = read_arrays(folder / found._tensors_name, specs)
                found.tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
                return found
            _log.warning("checkpoint %s is of other settings or another dataset; training starts from scratch", path)
        except (OSError, ValueError) as fault:
            _log.warning("checkpoint %s cannot be used (%s); training starts from scratch", path, fault)
        return cls(fingerprint)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The contents of the JSON and the safetensors file."""
        description = {name: value for name, value in vars(self).items() if name != "tensors"}
        return json.dumps(description, indent=1).encode(), safetensors.save(self.tensors)

    @classmethod
    def from_bytes(cls, description: bytes, tensors: bytes) -> Checkpoint:
        return cls(**json.loads(description), tensors=safetensors.load(tensors))

    @property
    def _tensors_name(self) -> str:
        return f"epoch-{self.epoch:05d}-{self.batch:07d}.safetensors"


def _parse(content: bytes) -> _Stored:
    """Parse and validate the JSON file; raises a ValueError."""
    found = parse_object(content)
    typed.check(_Stored, found)
    stored = _Stored(**{name: found[name] for name in _Stored.__annotations__})  # type: ignore[typeddict-item]
    if not stored["best_epoch"] <= stored["epoch"] == len(stored["history"]):
        raise ValueError("best_epoch must be at most epoch, and history have as many entries")
    if any("validation_macro_f1" not in metrics for metrics in stored["history"]):
        raise ValueError("history: lacks validation_macro_f1")
    return stored
