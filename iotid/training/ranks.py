"""This process's rank, the number of ranks, and collective operations, independent of how ranks were started."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from iotid.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; a single one if torch.distributed is not initialised."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        started = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size(), device) if started else cls(0, 1, device)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes files and logs."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks (all-reduce)."""
        values = values.detach().to(self.device)
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values.cpu()

    def broadcast(self, content: bytes) -> bytes:
        """Rank 0's ``content``, on every rank; the argument of other ranks is ignored."""
        if self.world_size == 1:
            return content
        size = torch.tensor([len(content)], device=self.device)
        dist.broadcast(size, 0)
        if self.is_rank_zero:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        else:
            data = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, 0)
        return data.cpu().numpy().tobytes()

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raise a TrainingError on every rank unless all have the same rows, in the same order, and settings."""
        own = fingerprint.encode()
        differ = self.total(torch.tensor([float(self.broadcast(own) != own)]))
        if differ.item():
            raise TrainingError(
                f"training: {int(differ)} of {self.world_size} ranks have other rows or settings than rank 0; "
                "every rank must read the same dataset and run the same version of iotid"
            )
