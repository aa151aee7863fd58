"""Arrow columns as NumPy arrays, and rows of ids as matrices and keys.

Shape suffixes: N rows, D or W values of a row, K characteristics, M packets kept of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk

if TYPE_CHECKING:
    import pyarrow as pa


def first_values(column: pa.Array | pa.ChunkedArray, max_packets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the first ``max_packets`` values of each of N lists, concatenated; (N,) how many of each list).

    An integer counts as a list of one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = one_chunk(column)
    if pa.types.is_integer(lists.type):
        return lists.to_numpy(zero_copy_only=False).astype(np.int64), np.ones(len(lists), np.int64)
    lengths_N = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    taken_N = np.minimum(lengths_N, max_packets)
    return values[list_positions(lengths_N) < max_packets], taken_N


def list_positions(lengths_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of each value of concatenated lists in its own list."""
    starts_N = np.cumsum(lengths_N) - lengths_N
    return np.arange(int(lengths_N.sum())) - np.repeat(starts_N, lengths_N)


def distinct_rows(rows_NW: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(distinct rows (D, W); (N,) index of each row among them).

    Arrow's dictionary encoding hashes the rows; np.unique sorts them, which takes five times as long for a million.
    """
    import pyarrow as pa

    rows_NW = np.ascontiguousarray(rows_NW, dtype=np.int32)
    rows, width = rows_NW.shape
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * width), rows, [None, pa.py_buffer(rows_NW)])
    encoded = binary.dictionary_encode()
    distinct = np.frombuffer(encoded.dictionary.buffers()[1], np.int32, len(encoded.dictionary) * width)
    return distinct.reshape(-1, width), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def side_by_side(sequences: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """(N, K*M): the characteristics concatenated, in the order of their names."""
    return np.concatenate([sequences[name] for name in sorted(sequences)], axis=1)


def exact_keys(ids_ND: NDArray[Any]) -> NDArray[np.void]:
    """(N,) keys, equal if and only if two rows are equal in every column."""
    rows = np.ascontiguousarray(ids_ND)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
