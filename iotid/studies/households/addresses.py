"""Addresses with their distinct sequences and their traffic over time. Pure functions on arrays.

Shape suffixes: N flows, B addresses or sets of flows, D distinct flows, M packets kept of each, X cells of their
fingerprints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset import FlowSets
from iotid.dataset.arrays import distinct_rows
from iotid.dataset.sets import concurrent_flows, sparse_maximum

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Observed:
    """N flows: ``sequences`` characteristic -> (D, M) ids of the distinct ones; ``row`` (N,) index of each flow among
    them; ``fingerprints`` (N, X); ``first_us`` and ``last_us`` (N,) of its packets, in µs since its set began."""

    sequences: dict[str, NDArray[np.int32]]
    row: NDArray[np.int64]
    fingerprints: csr_matrix
    first_us: NDArray[np.int64]
    last_us: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        ids: dict[str, NDArray[np.int32]],
        fingerprints: csr_matrix,
        first_us: NDArray[np.int64],
        last_us: NDArray[np.int64],
    ) -> Self:
        """``ids``: characteristic -> (N, M)."""
        distinct, row_N = distinct_rows(np.concatenate(list(ids.values()), axis=1))
        columns = np.split(distinct, len(ids), axis=1)
        return cls(dict(zip(ids, columns, strict=True)), row_N, fingerprints, first_us, last_us)

    @classmethod
    def join(cls, parts: Sequence[Observed]) -> Self:
        """The flows of all parts, in order; all have the same characteristics."""
        from scipy.sparse import csr_matrix, vstack

        ids = {name: np.concatenate([part.sequences[name][part.row] for part in parts]) for name in parts[0].sequences}
        cells = max(part.fingerprints.shape[1] for part in parts)
        wide = [
            csr_matrix((each.data, each.indices, each.indptr), shape=(each.shape[0], cells))
            for each in (part.fingerprints for part in parts)
        ]
        times = (np.concatenate([getattr(part, name) for part in parts]) for name in ("first_us", "last_us"))
        return cls.of(ids, vstack(wide).tocsr(), *times)


@dataclass(frozen=True)
class Addresses:
    """``flows`` (B, N): 1 if the flow belongs to the address."""

    observed: Observed
    flows: csr_matrix

    @classmethod
    def of_units(cls, observed: Observed, unit_N: NDArray[np.int64]) -> Self:
        """An address for each distinct unit, sorted."""
        from scipy.sparse import coo_matrix

        units, which_N = np.unique(unit_N, return_inverse=True)
        cells = (np.ones(len(unit_N), np.int64), (which_N, np.arange(len(unit_N))))
        return cls(observed, coo_matrix(cells, shape=(len(units), len(unit_N))).tocsr())

    def __len__(self) -> int:
        return int(self.flows.shape[0])

    def with_flows(self, flows_BN: csr_matrix) -> Addresses:
        return replace(self, flows=flows_BN)

    @cached_property
    def distinct(self) -> csr_matrix:
        """(B, D) number of flows equal to each distinct one."""
        from scipy.sparse import coo_matrix

        row_N = self.observed.row
        shape = (len(row_N), len(next(iter(self.observed.sequences.values()))))
        return (self.flows @ coo_matrix((np.ones(len(row_N), np.int64), (np.arange(len(row_N)), row_N)), shape)).tocsr()

    @cached_property
    def concurrent(self) -> csr_matrix:
        """(B, D) least number of equal flows that were open at the same time."""
        entries, distinct = self.flows.tocoo(), self.distinct.shape[1]
        first_E, last_E = self.observed.first_us[entries.col], self.observed.last_us[entries.col]
        cell_E = entries.row.astype(np.int64) * distinct + self.observed.row[entries.col]
        cells, which_E = np.unique(cell_E, return_inverse=True)
        flows, open_us = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
        first_us, last_us = np.full(len(cells), np.iinfo(np.int64).max), np.zeros(len(cells), np.int64)
        np.add.at(flows, which_E, entries.data.astype(np.int64))
        np.add.at(open_us, which_E, entries.data.astype(np.int64) * (last_E - first_E))
        np.minimum.at(first_us, which_E, first_E)
        np.maximum.at(last_us, which_E, last_E)
        most = concurrent_flows(flows, open_us, last_us - first_us)
        return sparse_maximum(most, cells // distinct, cells % distinct, self.distinct.shape)

    @cached_property
    def traffic(self) -> csr_matrix:
        """(B, X) sum of the fingerprints of all flows."""
        return (self.flows @ self.observed.fingerprints).tocsr()


@dataclass(frozen=True)
class LabelledSets:
    """Training sets: ``label`` (B,), -1 for unlisted hosts, and ``recording`` (B,), as in `dataset.FlowSets`."""

    addresses: Addresses
    label: NDArray[np.int64]
    recording: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        observed: Observed,
        unit_N: NDArray[np.int64],
        label_N: NDArray[np.int64],
        recording_N: NDArray[np.int64],
    ) -> Self:
        addresses = Addresses.of_units(observed, unit_N)
        first_B = np.unique(unit_N, return_index=True)[1]
        label_B = label_N[first_B]
        order = np.argsort(label_B, kind="stable")  # as in FlowSets
        return cls(addresses.with_flows(addresses.flows[order]), label_B[order], recording_N[first_B][order])

    def sets(self) -> FlowSets:
        observed, addresses = self.addresses.observed, self.addresses
        return FlowSets(observed.sequences, addresses.distinct, self.label, self.recording, addresses.concurrent)
