"""Packs all sequences of a flow into one binary value, which is far faster to compare and hash than lists.

A value is, for each sequence, its length and its members, as int32 in native byte order. Equal sequences have equal
values. Shape suffixes: N flows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from iotid.dataset.arrays import first_values, list_positions

_WORD = np.dtype(np.int32)


def pack_sequences(sequences: Sequence[pa.ListArray]) -> pa.BinaryArray:
    """(N,) values of several columns of N lists each."""
    lists = [first_values(column, np.iinfo(np.int32).max) for column in sequences]
    words_N = sum((lengths_N + 1 for _, lengths_N in lists), start=np.zeros(len(sequences[0]), np.int64))
    ends_N = np.cumsum(words_N)
    words = np.empty(int(words_N.sum()), _WORD)
    at_N = ends_N - words_N
    for values, lengths_N in lists:
        words[at_N] = lengths_N
        words[np.repeat(at_N + 1, lengths_N) + list_positions(lengths_N)] = values
        at_N = at_N + 1 + lengths_N
    offsets = (np.concatenate([[0], ends_N]) * _WORD.itemsize).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(words_N), [None, pa.py_buffer(offsets), pa.py_buffer(words)])


def unpack_sequences(packed: pa.BinaryArray, count: int) -> list[pa.ListArray]:
    """The inverse of ``pack_sequences``: ``count`` columns of lists."""
    _, offset_buffer, data = packed.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, len(packed) + 1, 4 * packed.offset).astype(np.int64)
    words = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    words = words[offsets[0] : offsets[-1]].view(_WORD)
    at_N = (offsets[:-1] - offsets[0]) // _WORD.itemsize
    columns = []
    for _ in range(count):
        lengths_N = words[at_N].astype(np.int64)
        values = words[np.repeat(at_N + 1, lengths_N) + list_positions(lengths_N)]
        starts = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int32)
        columns.append(pa.ListArray.from_arrays(starts, values))
        at_N = at_N + 1 + lengths_N
    return columns
