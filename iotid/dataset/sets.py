"""Which flows were seen together: what a device showed in a capture, as sets, a bounded number of each label.

Rows of a dataset are distinct flows; which of them one device showed together is lost in them, and a census asks what
is behind an address. So beside its parts a dataset holds some sets, of flows of the training and validation parts
alone: what one entry of the device list, or one host that no entry names, showed in one capture file. The sets of a
device and a site's night are one recording, for that is what a census asks about. Flows that a device neither opened
nor answered are in no set. Of each label there are those sets whose seeded hash is lowest, at most ``dataset.sets`` of
them.

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
_LEAST_OPEN_US = 60_000_000  # mean time for which flows are open, to count as sessions that one device holds


def at_once(
    flows_N: NDArray[np.int64], open_us_N: NDArray[np.int64], span_us_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,) of equal flows the number that were open at the same time at some moment, at least; 1 of short flows.

    ``open_us_N``: the sum of the times from first to last packet; ``span_us_N``: from the first packet of all to the
    last. What is open for longer than there was time, was open twice at once.
    """
    busy_N = np.ceil(open_us_N / np.maximum(span_us_N, 1) - 1e-9).astype(np.int64)
    return np.where(open_us_N >= _LEAST_OPEN_US * flows_N, np.clip(busy_N, 1, flows_N), 1)


def sparse_maximum(
    value_N: NDArray[np.int64], row_N: NDArray[np.int64], column_N: NDArray[np.int64], shape: tuple[int, int]
) -> csr_matrix:
    """The sparse matrix of this shape with the greatest of the values that each cell is given."""
    from scipy.sparse import coo_matrix

    cells, cell_N = np.unique(row_N * shape[1] + column_N, return_inverse=True)
    most = np.zeros(len(cells), np.int64)
    np.maximum.at(most, cell_N.ravel(), value_N)
    return coo_matrix((most, (cells // shape[1], cells % shape[1])), shape=shape).tocsr()


@dataclass(frozen=True)
class FlowSets:
    """``sequences``: characteristic -> int32 (D, M) ids; ``flows`` (B, D): of each, how many; ``label`` (B,), -1 of
    hosts that no device list names; ``recording`` (B,): a number that the sets of one device and night share;
    ``at_once`` (B, D): of sessions, where known, how many were open at the same time, at least.

    Sets are in the order of their labels.
    """

    sequences: dict[str, NDArray[np.int32]]
    flows: csr_matrix
    label: NDArray[np.int64]
    recording: NDArray[np.int64]
    at_once: csr_matrix

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
        at_once_N: NDArray[np.int64] | None = None,
    ) -> FlowSets:
        """Of N rows: the set that each is in, the set's label, how many flows the row stands for there, the set's
        recording (each set its own unless given), and how many of these flows were open at the same time."""
        from scipy.sparse import coo_matrix, csr_matrix

        distinct, which_N = distinct_rows(np.concatenate(list(sequences.values()), axis=1))
        columns = np.split(distinct, len(sequences), axis=1)
        pairs = np.stack([label_N, unit_N])
        units, first, place_N = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        recording_N = unit_N if recording_N is None else recording_N
        shape = (units.shape[1], len(distinct))
        flows = coo_matrix((num_flows_N, (place_N.ravel(), which_N)), shape=shape).tocsr()
        at_once_BD = csr_matrix(shape, dtype=np.int64)
        if at_once_N is not None:
            at_once_BD = sparse_maximum(at_once_N, place_N.ravel(), which_N, shape)
        ids = dict(zip(sequences, columns, strict=True))
        return cls(ids, flows, units[0], recording_N[first], at_once_BD)

    def to_arrow(self) -> pa.Table:
        """A row for each distinct flow of a set: ``set``, ``label_id``, ``num_flows`` and the ids as lists."""
        entries = self.flows.tocoo()
        columns: dict[str, pa.Array] = {
            "set": pa.array(entries.row.astype(np.int32)),
            "label_id": pa.array(self.label[entries.row].astype(np.int32)),
            "num_flows": pa.array(entries.data.astype(np.int64)),
            "recording": pa.array(self.recording[entries.row]),
            "at_once": pa.array(np.asarray(self.at_once[entries.row, entries.col]).ravel().astype(np.int64)),
        }
        for name, ids_DM in self.sequences.items():
            ids = ids_DM[entries.col]
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), ids.shape[1])
        return pa.table(columns)

    @classmethod
    def from_arrow(cls, rows: pa.Table) -> FlowSets:
        """The sets of which ``to_arrow`` made the rows."""
        names = [name for name in rows.column_names if name not in _COLUMNS]
        lists = {name: rows[name].combine_chunks() for name in names}
        sequences = {
            name: column.flatten().to_numpy().astype(np.int32).reshape(-1, column.type.list_size)
            for name, column in lists.items()
        }
        return cls.of(sequences, *(rows[name].to_numpy().astype(np.int64) for name in _COLUMNS))


def few(rows: pa.Table, most: int) -> pa.Table:
    """Rows of SCHEMA with equal ones as one, and of each label only the ``most`` units of the lowest hash.

    Of several tables cut so, the union cut so again is what the whole would give.
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
