"""Distinct flows, batches of similar length, and tensors, from encoded flows.

Shape suffixes: N flows, D distinct flows, M packets kept of each flow, B flows of a batch, L packets of its longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from iotid.dataset.arrays import distinct_rows
from iotid.dataset.characteristics import PADDING

if TYPE_CHECKING:
    import torch


def step_counts(sequences: Mapping[str, np.ndarray], padding: str) -> np.ndarray:
    """int64 (N,) steps that the model reads of each flow: its packets, or all M if ``padding`` is ``zeros``."""
    ids_NM = next(iter(sequences.values()))
    if padding == "zeros":
        return np.full(len(ids_NM), ids_NM.shape[1])
    counts_N: np.ndarray = (ids_NM != PADDING).sum(axis=1)  # padding is at the end only, and no packet has its id
    return counts_N


def distinct_sequences(sequences: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The distinct flows, each characteristic int32 (D, M), and int64 (N,) the index of each flow among them."""
    distinct, which_N = distinct_rows(np.concatenate(list(sequences.values()), axis=1))
    parts = np.split(distinct, len(sequences), axis=1)
    return dict(zip(sequences, parts, strict=True)), which_N


def batches_by_length(counts_N: np.ndarray, max_packets: int) -> Iterator[np.ndarray]:
    """Row indices in batches of at most ``max_packets`` packets including padding, shortest flows first."""
    order = np.argsort(counts_N, kind="stable")
    start = 0
    while start < len(order):
        end = min(len(order), start + max(1, max_packets // max(1, counts_N[order[start]])))
        end = start + max(1, min(end - start, max_packets // max(1, counts_N[order[end - 1]])))
        yield order[start:end]
        start = end


def filled_batches(counts_N: np.ndarray, max_packets: int, multiple: int) -> Iterator[np.ndarray]:
    """Row indices in batches as of ``batches_by_length``, in which the flows of each length are a multiple of
    ``multiple``: the last flow of a length is repeated as often as it takes. A batch has ``multiple`` rows at least.

    So at every step of a batch the number of flows with a packet is such a multiple, too.
    """
    counts_N = np.maximum(counts_N, 1)  # the network reads at least one step
    order = np.argsort(counts_N, kind="stable")
    ends = np.flatnonzero(np.diff(counts_N[order], append=0)) + 1
    missing = -np.diff(ends, prepend=0) % multiple
    times = np.ones(len(order), np.int64)
    times[ends - 1] += missing
    rows = np.repeat(order, times)

    def most(row: int) -> int:
        return max(multiple, max_packets // int(counts_N[row]) // multiple * multiple)

    start = 0
    while start < len(rows):
        end = min(len(rows), start + most(rows[start]))  # if all are as short as the first
        end = start + min(end - start, most(rows[end - 1]))
        yield rows[start:end]
        start = end


def logits_by_batch(
    network: torch.nn.Module,
    sequences: Mapping[str, np.ndarray],
    counts_N: np.ndarray,
    max_packets: int,
    *,
    device: torch.device | None = None,
    batches: slice = slice(None),
    multiple: int = 0,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """For each batch of ``batches_by_length``: row indices int64 (B,) and the network's logits (B, C) on the CPU.

    ``counts_N``: output of ``step_counts``. ``batches``: which of the batches, by default all. With ``multiple``, they
    are those of ``filled_batches``, in which a row may occur several times.
    """
    cut = filled_batches(counts_N, max_packets, multiple) if multiple else batches_by_length(counts_N, max_packets)
    prepared = ((rows, prepare(sequences, rows, counts_N, device)) for rows in list(cut)[batches])
    given = next(prepared, None)
    while given is not None:
        rows, (ids, lengths_B) = given
        logits_BC = network(ids, lengths_B)
        given = next(prepared, None)  # while a GPU computes
        yield rows, logits_BC.cpu()


def prepare(
    sequences: Mapping[str, np.ndarray], rows: np.ndarray, counts_N: np.ndarray, device: torch.device | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The arguments of the network for the given rows: ids of ``tensors_of``, and int64 (B,) steps, on the CPU."""
    import torch

    return tensors_of(sequences, rows, counts_N, device), torch.from_numpy(np.maximum(counts_N[rows], 1))


def tensors_of(
    sequences: Mapping[str, np.ndarray], rows: np.ndarray, counts_N: np.ndarray, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """int64 (B, L) ids of the given rows, truncated to the longest of them."""
    longest = max(1, int(counts_N[rows].max()))
    return {name: to_device(ids_NM[rows, :longest].astype(np.int64), device) for name, ids_NM in sequences.items()}


def to_device(array: np.ndarray, device: torch.device | None) -> torch.Tensor:
    """The array as a tensor; a copy to a GPU, from pinned memory, is not waited for."""
    import torch

    tensor = torch.from_numpy(array)
    if device is None or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
