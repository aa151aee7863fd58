"""This process's rank, the number of ranks, and sums over them: all that training needs of its launcher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from iotid.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; a single one if torch.distributed was not started."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        started = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size(), device) if started else cls(0, 1, device)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the rank that writes files and logs."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, the same on each."""
        values = values.detach().to(self.device)
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values.cpu()

    def broadcast(self, content: bytes) -> bytes:
        """The ``content`` of rank 0, on every rank; that of the others is ignored."""
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
        """Raise a TrainingError on every rank unless all hold the same rows, in the same order, and settings."""
        own = fingerprint.encode()
        differ = self.total(torch.tensor([float(self.broadcast(own) != own)]))
        if differ.item():
            raise TrainingError(
                f"training: {int(differ)} of {self.world_size} ranks hold other rows or settings than rank 0; "
                "every rank must read the same dataset and run the same version of iotid"
            )
