"""Asks a trained model about devices: from their distinct flows to one row of IDENTIFIED each, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.identify import answers_to_arrow
from iotid.model.device import FlowTimes

if TYPE_CHECKING:
    from iotid.model.bundle import Predictor


def whole_devices(batches: Iterable[pa.RecordBatch], max_rows: int) -> Iterator[pa.Table]:
    """Tables of about ``max_rows`` rows, from rows sorted by device; all rows of a device are in one table."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(part.num_rows for part in pending) > max_rows:
            rows = pa.Table.from_batches(pending)
            start_of_last = pc.index(rows["device_id"], rows["device_id"][-1]).as_py()
            if start_of_last:
                yield rows.slice(0, start_of_last)
            pending = rows.slice(start_of_last).combine_chunks().to_batches()
    if pending:
        yield pa.Table.from_batches(pending)


def answer_devices(predictor: Predictor, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """One row of ANSWERS for each device of ``rows``, which have all its distinct flows."""
    from scipy.sparse import coo_matrix

    from iotid.dataset.sets import concurrent_flows, sparse_maximum
    from iotid.model.network.sequences import distinct_sequences

    assert predictor.learned.devices is not None
    device = rows["device_id"].combine_chunks().dictionary_encode()
    distinct, row_of_pair = distinct_sequences(predictor.encoding.encode(rows.select(columns).combine_chunks()))
    shape = (len(device.dictionary), len(next(iter(distinct.values()))))
    num_flows, open_us, first_us, last_us = (
        rows[name].to_numpy() for name in ("flows", "open_us", "first_seen", "last_seen")
    )
    device_N = device.indices.to_numpy().astype(np.int64)
    flows = coo_matrix((num_flows, (device_N, row_of_pair)), shape=shape).tocsr()
    sessions = sparse_maximum(concurrent_flows(num_flows, open_us, last_us - first_us), device_N, row_of_pair, shape)
    of_device_N = np.bincount(device_N, num_flows, shape[0]).astype(np.int64)
    times = FlowTimes(device_N, row_of_pair, first_us, last_us)
    answer = predictor.learned.devices.answer(distinct, flows, sessions, times)
    return answers_to_arrow(device.dictionary, of_device_N, answer)
