"""Reproducible hashes of rows, which depend on the row's values only.

They are the same in every job, so they are not keyed by a secret, and an attacker can choose them by sending packets.
So nothing that costs time or memory depends on them (`iotid.spark.shuffle` uses another hash), only a flow's dataset
split, which sets of a label are kept, and which sequences a model knows. Whatever an attacker gains by choosing them is
easier to gain by sending more flows, from more addresses, or the device's own flows.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.spark.shuffle import Buckets, Hashes

if TYPE_CHECKING:
    import pyarrow as pa


def hash_rows(columns: Sequence[pa.Array | pa.ChunkedArray], seed: int = 0) -> Hashes:
    """(N,) hash of each row: of integers, times, dates, text and binary values, or null."""
    return mix([_words(one_chunk(column)) for column in columns], seed)


def hash_for_buckets(columns: Sequence[pa.Array | pa.ChunkedArray], buckets: Buckets) -> Hashes:
    """(N,) as `Buckets.hashed`, for columns as of ``hash_rows``."""
    return buckets.hashed([_words(one_chunk(column), buckets.text_key()) for column in columns])


def mix(words: Iterable[NDArray[Any]], seed: int = 0) -> Hashes:
    """(N,) hash of each row's 64-bit words: multiply and xor-shift as in SplitMix64."""
    mixed: Any = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    for word_N in words:
        mixed = (mixed ^ word_N.astype(np.uint64, copy=False)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    mixed = mixed * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(32))


def _words(column: pa.Array, text_key: str | None = None) -> NDArray[Any]:
    """(N,) 64 bits for each value: integers unchanged, text and binary values hashed by pandas.

    ``text_key``: 16 characters, in place of pandas' own key.
    """
    import pyarrow as pa
    from pandas.util import hash_array

    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind):
        encoded = column.dictionary_encode()
        values = encoded.dictionary.to_numpy(zero_copy_only=False)
        keyed = {} if text_key is None else {"hash_key": text_key}
        hashes = hash_array(values, categorize=False, **keyed) if len(values) else np.empty(0, np.uint64)
        index_N = encoded.indices.cast(pa.int64()).fill_null(len(values)).to_numpy(zero_copy_only=False)
        return np.append(hashes, np.uint64(0))[index_N]
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False).view(np.uint64)
