"""Sets of flows: the flows of one device in one capture file.

The rows of a dataset are distinct flows, without their device, but a census classifies all flows of an address
together. So a dataset also has sets: the flows of one entry of the device list, or of one unlisted host, in one capture
file. Those of training and validation flows are learned from, those of test flows are apart. The sets of a device at a
site and capture date are one recording, which corresponds to a row of a census. Flows that a device neither opened nor
answered are in no set. A dataset has at most ``dataset.sets`` sets of each label, those with the lowest seeded hash.

Shape suffixes: N flows, D distinct flows of all sets, B sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid.dataset.arrays import distinct_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SCHEMA = pa.schema(
    [
        pa.field("label", pa.int32()),
        pa.field("unit", pa.uint64()),
        pa.field("recording", pa.uint64()),
        pa.field("sequences", pa.binary()),
        pa.field("num_flows", pa.int64()),
        pa.field("open_us", pa.int64()),
        pa.field("first_us", pa.int64()),
        pa.field("last_us", pa.int64()),
    ]
)
_KEYS = ["label", "unit", "recording", "sequences"]
_SUMS = {"num_flows": "sum", "open_us": "sum", "first_us": "min", "last_us": "max"}
_COLUMNS = ("set", "label_id", "num_flows", "recording", "at_once")
_LEAST_OPEN_US = 60_000_000  # minimum mean duration of flows to count as sessions of one device


def concurrent_flows(
    flows_N: NDArray[np.int64], open_us_N: NDArray[np.int64], span_us_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,) lower bound of how many of a row's equal flows were open at the same time; 1 for short flows.

    ``open_us_N``: sum of the flows' durations; ``span_us_N``: from the first packet of all to the last. If the sum
    exceeds the span, at least two were open at the same time.
    """
    busy_N = np.ceil(open_us_N / np.maximum(span_us_N, 1) - 1e-9).astype(np.int64)
    return np.where(open_us_N >= _LEAST_OPEN_US * flows_N, np.clip(busy_N, 1, flows_N), 1)


def sparse_maximum(
    value_N: NDArray[np.int64], row_N: NDArray[np.int64], column_N: NDArray[np.int64], shape: tuple[int, int]
) -> csr_matrix:
    """The sparse matrix of this shape with the maximum of the values of each cell."""
    from scipy.sparse import coo_matrix

    cells, cell_N = np.unique(row_N * shape[1] + column_N, return_inverse=True)
    most = np.zeros(len(cells), np.int64)
    np.maximum.at(most, cell_N.ravel(), value_N)
    return coo_matrix((most, (cells // shape[1], cells % shape[1])), shape=shape).tocsr()


@dataclass(frozen=True)
class FlowSets:
    """Sets, sorted by label.

    ``sequences``: characteristic -> int32 (D, M) ids; ``flows`` (B, D): counts of each distinct flow; ``label`` (B,):
    -1 for unlisted hosts; ``recording`` (B,): number of the recording; ``concurrent`` (B, D): lower bound of how many
    were open at the same time, where known.
    """

    sequences: dict[str, NDArray[np.int32]]
    flows: csr_matrix
    label: NDArray[np.int64]
    recording: NDArray[np.int64]
    concurrent: csr_matrix

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def of(
        cls,
        sequences: dict[str, NDArray[np.int32]],
        unit_N: NDArray[np.int64],
        label_N: NDArray[np.int64],
        num_flows_N: NDArray[np.int64],
        recording_N: NDArray[np.int64] | None = None,
        concurrent_N: NDArray[np.int64] | None = None,
    ) -> FlowSets:
        """From N rows: each row's set (``unit_N``), the set's label, the number of flows, the set's recording (default:
        one for each set), and how many of these flows were open at the same time."""
        from scipy.sparse import coo_matrix, csr_matrix

        distinct, which_N = distinct_rows(np.concatenate(list(sequences.values()), axis=1))
        columns = np.split(distinct, len(sequences), axis=1)
        pairs = np.stack([label_N, unit_N])
        units, first, set_N = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        recording_N = unit_N if recording_N is None else recording_N
        shape = (units.shape[1], len(distinct))
        flows = coo_matrix((num_flows_N, (set_N.ravel(), which_N)), shape=shape).tocsr()
        concurrent_BD = csr_matrix(shape, dtype=np.int64)
        if concurrent_N is not None:
            concurrent_BD = sparse_maximum(concurrent_N, set_N.ravel(), which_N, shape)
        ids = dict(zip(sequences, columns, strict=True))
        return cls(ids, flows, units[0], recording_N[first], concurrent_BD)

    def to_arrow(self) -> pa.Table:
        """A row for each distinct flow of a set: ``set``, ``label_id``, ``num_flows`` and the ids as lists."""
        entries = self.flows.tocoo()
        # SciPy returns a matrix, not values, for no cells
        concurrent = np.asarray(self.concurrent[entries.row, entries.col]).ravel() if entries.nnz else entries.data
        columns: dict[str, pa.Array] = {
            "set": pa.array(entries.row.astype(np.int32)),
            "label_id": pa.array(self.label[entries.row].astype(np.int32)),
            "num_flows": pa.array(entries.data.astype(np.int64)),
            "recording": pa.array(self.recording[entries.row]),
            "at_once": pa.array(concurrent.astype(np.int64)),
        }
        for name, ids_DM in self.sequences.items():
            ids = ids_DM[entries.col]
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), ids.shape[1])
        return pa.table(columns)

    @classmethod
    def from_arrow(cls, rows: pa.Table) -> FlowSets:
        """The inverse of ``to_arrow``."""
        names = [name for name in rows.column_names if name not in _COLUMNS]
        lists = {name: rows[name].combine_chunks() for name in names}
        sequences = {
            name: column.flatten().to_numpy().astype(np.int32).reshape(-1, column.type.list_size)
            for name, column in lists.items()
        }
        return cls.of(sequences, *(rows[name].to_numpy().astype(np.int64) for name in _COLUMNS))


def sample_sets(rows: pa.Table, most: int) -> pa.Table:
    """Merge equal rows of SCHEMA, and keep of each label only the ``most`` units with the lowest hash.

    Sampling parts and then their union gives the same as sampling the whole.
    """
    summed = rows.group_by(_KEYS, use_threads=False).aggregate(list(_SUMS.items()))
    names = {f"{name}_{function}": name for name, function in _SUMS.items()}
    rows = summed.rename_columns([names.get(name, name) for name in summed.schema.names]).select(SCHEMA.names)
    label_R, unit_R = rows["label"].to_numpy(), rows["unit"].to_numpy()
    order = np.lexsort((unit_R, label_R))
    label_R, unit_R = label_R[order], unit_R[order]
    new_label = np.ones(len(order), np.bool_)
    new_label[1:] = label_R[1:] != label_R[:-1]
    new_unit = new_label.copy()
    new_unit[1:] |= unit_R[1:] != unit_R[:-1]
    unit_number = np.cumsum(new_unit)
    first_of_label = np.maximum.accumulate(np.where(new_label, unit_number, 0))
    return rows.take(pa.array(np.sort(order[unit_number - first_of_label < most])))
