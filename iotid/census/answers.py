"""Asks a trained model about devices: from their distinct flows to one row of SCORES each, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.identify import ANSWERS, Classes, answers_from_arrow, answers_to_arrow, identify
from iotid.errors import DataError
from iotid.model.device import FlowTimes, share_of_households

if TYPE_CHECKING:
    from iotid import config
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


def answer_devices(
    predictor: Predictor, rows: pa.Table, columns: Sequence[str], *, unlike_kind: bool = False
) -> pa.Table:
    """One row of ANSWERS for each device of ``rows``, which have all its distinct flows.

    ``unlike_kind``: with its p-values, or raise a DataError if the model has no held-out scores.
    """
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
    answer = predictor.learned.devices.answer(distinct, flows, sessions, times, unlike_kind=unlike_kind)
    return answers_to_arrow(device.dictionary, of_device_N, answer)


def identify_devices(predictor: Predictor, rows: pa.Table, columns: Sequence[str], settings: config.Census) -> pa.Table:
    """One row of SCORES for each device of ``rows``, sorted by device, which are its distinct flows.

    Raises:
        DataError: the model has no device model, or none of what ``census.unlike_kind`` needs.
    """
    check_device_model(predictor, "the model")
    parts = whole_devices(rows.to_batches(settings.batch_rows), settings.batch_rows)
    answered = (answer_devices(predictor, part, columns, unlike_kind=settings.unlike_kind) for part in parts)
    answers = pa.concat_tables([ANSWERS.empty_table(), *answered])
    answer = answers_from_arrow(answers)
    counted_N = answer.known_tokens.max(axis=1, initial=0) >= settings.min_evidence
    share = share_of_households(np.sort(answer.log_odds[counted_N]), settings.behind)
    classes = Classes.of(predictor.encoding.labels, predictor.encoding.devices)
    return identify(answers, share, classes, settings)


def check_device_model(predictor: Predictor, name: str) -> None:
    """Raise a DataError if the model has no device model."""
    if predictor.learned.devices is None:
        raise DataError(
            f"{name}: was trained without sets of flows, so it has no device model; write the dataset and train again"
        )
