"""Checkpoints: tensors in safetensors, the rest in JSON, nothing that unpickles, and never half of one.

The tensors are written first, each time under a name of their own; the JSON that names them is what makes them a
checkpoint, and it is replaced in one move. A process that dies in between leaves the checkpoint before.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from iotid.model.bundle import write_atomically

_log = logging.getLogger(__name__)

_DESCRIPTION = "checkpoint.json"


@dataclass
class Checkpoint:
    """Where a run stands after ``epoch`` epochs and ``batch`` batches of the next one, with losses of ``loss_sum``.

    Random states are not kept: they follow from (seed, epoch, batch, rank). ``fingerprint`` names the settings and rows
    that the run learns with; ``tensors`` are the model's, the best model's and the optimiser's.
    """

    fingerprint: str
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write this checkpoint whole, then remove the one before."""
        description, tensors = self.to_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / self._tensors_name, tensors)
        write_atomically(folder / _DESCRIPTION, description)
        for other in folder.glob("epoch-*.safetensors"):
            if other.name != self._tensors_name:
                other.unlink()

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> Checkpoint:
        """The folder's checkpoint if it is whole and of the same settings and rows, else one before the first epoch."""
        path = folder / _DESCRIPTION
        if not path.exists():
            return cls(fingerprint)
        try:
            description = path.read_bytes()
            found = cls(**{**json.loads(description), "tensors": {}})
            if found.fingerprint == fingerprint:
                return cls.from_bytes(description, (folder / found._tensors_name).read_bytes())
            _log.warning("checkpoint %s is of other settings or another dataset; training starts anew", path)
        except (OSError, ValueError, TypeError, SafetensorError) as fault:
            _log.warning("checkpoint %s cannot be used (%s); training starts anew", path, fault)
        return cls(fingerprint)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The JSON and the safetensors file."""
        told = {name: value for name, value in vars(self).items() if name != "tensors"}
        return json.dumps(told, indent=1).encode(), safetensors.save(self.tensors)

    @classmethod
    def from_bytes(cls, description: bytes, tensors: bytes) -> Checkpoint:
        return cls(**json.loads(description), tensors=safetensors.load(tensors))

    @property
    def _tensors_name(self) -> str:
        return f"epoch-{self.epoch:05d}-{self.batch:07d}.safetensors"
