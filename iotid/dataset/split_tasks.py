"""First pass over the flows, in workers: the outcome of each flow, and the units of each label to be split.

Shape suffixes: N flows, U units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid.dataset.label_flows import DEVICE, HOST, LABELLED, Source, busiest
from iotid.dataset.side_outputs import CANDIDATES, OUTCOMES, SUMMARIES, VOTES, table_schema
from iotid.dataset.split_protocols import SPLIT_PROTOCOLS, AmbiguousCut, columns_read, distinct_units, summarise
from iotid.spark.shuffle import (
    NO_BUCKET,
    Buckets,
    read_blocks,
    read_tables,
    read_task_ids,
    shuffle_blocks,
    side_output,
    with_bucket,
)

_MAX_HOSTS = 1 << 16  # counted per file, the busiest; a site has fewer
_HELD_ROWS = 1 << 18  # flows that a task buffers before it sends their units


def scan(tasks: Iterable[pa.RecordBatch], source: Source, buckets: Buckets) -> Iterator[pa.RecordBatch]:
    """SHUFFLE_BLOCKS of the units of each label, or votes on captures, and the outcomes of all flows."""
    protocol = source.settings.protocol
    unit = SPLIT_PROTOCOLS[protocol].unit
    columns = [*columns_read(protocol), *(source.sequence_columns if unit == "sequences" else [])]
    for number in read_task_ids(tasks):
        outcomes: Counter[tuple[str, str]] = Counter()
        found: list[tuple[NDArray[np.int32], Any]] = []
        votes: Counter[tuple[int, int]] = Counter()
        hosts: Counter[str] = Counter()
        for flows, label_N, device_N, _ in source.read(number, columns, outcomes, hosts):
            labels, counts = np.unique(label_N, return_counts=True)
            outcomes.update({(LABELLED, source.labels[i]): n for i, n in zip(labels, counts.tolist(), strict=True)})
            for device, flows_of in zip(*np.unique(device_N[device_N >= 0], return_counts=True), strict=True):
                outcomes[DEVICE, source.devices.entries[device].name] += int(flows_of)
            packed = source.packed(flows) if unit == "sequences" else None
            position_N = source.positions(flows, label_N, packed)
            if unit == "capture":
                pairs, seen = np.unique(np.stack([position_N, label_N]), axis=1, return_counts=True)
                votes.update(dict(zip(map(tuple, pairs.T.tolist()), seen.tolist(), strict=True)))
                continue
            found.append((label_N, position_N))
            if sum(len(label) for label, _ in found) > _HELD_ROWS:
                yield _units(found, buckets)
                found = []
        if found:
            yield _units(found, buckets)
        outcomes.update({(HOST, host): n for host, n in busiest(hosts, _MAX_HOSTS).items()})
        counted = [{"outcome": outcome, "label": label, "flows": n} for (outcome, label), n in outcomes.items()]
        schema = table_schema("outcome string, label string, flows int64")
        yield with_bucket(side_output(OUTCOMES, pa.Table.from_pylist(counted, schema)))
        captures = [{"position": at, "label": source.labels[label], "flows": n} for (at, label), n in votes.items()]
        schema = table_schema("position int64, label string, flows int64")
        yield with_bucket(side_output(VOTES, pa.Table.from_pylist(captures, schema)))


def _units(found: Sequence[tuple[NDArray[np.int32], Any]], buckets: Buckets) -> pa.RecordBatch:
    units = distinct_units(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    label_U = np.repeat(np.array([label for label, _ in units], np.int32), [len(own) for _, own in units])
    position_U = np.concatenate([own for _, own in units]) if units else np.empty(0, np.int64)
    rows = pa.RecordBatch.from_arrays([pa.array(label_U), pa.array(position_U)], names=["label", "position"])
    return shuffle_blocks(rows, buckets.hashed([position_U.view(np.uint64)]), buckets)


def _units_of(blocks: Sequence[pa.RecordBatch]) -> list[tuple[int, Any]]:
    units = pa.concat_tables([table for _, table in read_tables(blocks)])
    return distinct_units(units["label"].to_numpy(), units["position"].to_numpy())


def summarise_units(batches: Iterable[pa.RecordBatch], number: int) -> Iterator[pa.RecordBatch]:
    """SIDE_OUTPUTS: those among the blocks, and a summary of each bucket's units; ``number``: of all buckets."""
    schema = pa.schema(
        {"label": pa.int32(), "count": pa.int64(), "step": pa.int64(), "positions": pa.list_(pa.int64())}
    )
    for bucket, blocks in read_blocks(batches):
        if bucket == NO_BUCKET:
            yield from blocks
        else:
            rows = [vars(summary) for summary in summarise(_units_of(blocks), number)]
            yield side_output(SUMMARIES, pa.Table.from_pylist(rows, schema))


def refine_cuts(batches: Iterable[pa.RecordBatch], ambiguous: Sequence[AmbiguousCut]) -> Iterator[pa.RecordBatch]:
    """SIDE_OUTPUTS: the units of every bucket where an ambiguous cut may be."""
    schema = pa.schema({"cut": pa.int32(), "below": pa.int64(), "positions": pa.list_(pa.int64())})
    for bucket, blocks in read_blocks(batches):
        if bucket != NO_BUCKET:
            units = dict(_units_of(blocks))
            nothing = np.empty(0, np.int64)
            found = [cut.among(units.get(cut.label, nothing)) for cut in ambiguous]
            rows = [{"cut": i, "below": below, "positions": own} for i, (below, own) in enumerate(found)]
            yield side_output(CANDIDATES, pa.Table.from_pylist(rows, schema))
