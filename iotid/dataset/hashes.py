"""Hashes of rows by their values alone, so that the same flow gets the same one whatever stands around it.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.shuffle import Hashes, mix

if TYPE_CHECKING:
    import pyarrow as pa


def hash_rows(columns: Sequence[pa.Array | pa.ChunkedArray], seed: int = 0) -> Hashes:
    """(N,) hash of each row: of integers, times, dates, text and binary values, or null."""
    return mix([_words(one_chunk(column)) for column in columns], seed)


def _words(column: pa.Array) -> NDArray[Any]:
    """(N,) 64 bits for each value: an integer as it is, of text and binary values the hash that pandas gives them."""
    import pyarrow as pa
    from pandas.util import hash_array

    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind):
        encoded = column.dictionary_encode()
        values = encoded.dictionary.to_numpy(zero_copy_only=False)
        hashes = hash_array(values, categorize=False) if len(values) else np.empty(0, np.uint64)
        index_N = encoded.indices.cast(pa.int64()).fill_null(len(values)).to_numpy(zero_copy_only=False)
        return np.append(hashes, np.uint64(0))[index_N]
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False).view(np.uint64)
