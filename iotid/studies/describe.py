"""For each label, distributions of the mean and entropy of each flow's characteristics (the paper's section 3), and
its most telling pairs of packets.

Spark counts flows by rounded value, so that the size of the result depends on the labels and not on the flows; of the
pairs see `iotid.studies.telling_pairs`.

Shape suffixes: N flows, P packets of all of them, V distinct (flow, value) pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid import config
from iotid.dataset.characteristics import quantise_column, select_characteristics
from iotid.dataset.label_flows import Source
from iotid.dataset.write import check_partitions
from iotid.flows import later_flows, partition_files
from iotid.labels import DeviceList
from iotid.spark.phases import set_phase
from iotid.spark.shuffle import map_batches, read_task_ids, task_ids
from iotid.studies import telling_pairs
from iotid.studies.telling_pairs import TellingPair

if TYPE_CHECKING:
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows
    from iotid.spark.in_process import Session

MEAN, ENTROPY = "mean", "entropy"
_STEP = {MEAN: 1.0, ENTROPY: 0.01}  # what values are rounded to: the characteristic's unit, and bits
_COUNTED = pa.schema(
    [
        ("label", pa.string()),
        ("characteristic", pa.string()),
        ("measure", pa.string()),
        ("steps", pa.int64()),
        ("flows", pa.int64()),
    ]
)


class Spread(NamedTuple):
    """Distribution of a measure over flows: its rounded values, sorted, and the number of flows with each."""

    values: NDArray[np.float64]
    flows: NDArray[np.int64]

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of the flows does not exceed."""
        below = np.cumsum(self.flows)
        return float(self.values[np.searchsorted(below, share * below[-1])])


Distributions = Mapping[tuple[str, str, str], Spread]
"""(label, characteristic, MEAN or ENTROPY) -> its distribution."""


def describe(
    spark: Session,
    partitions: Sequence[Partition[Flows]],
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
) -> tuple[Distributions, dict[str, list[TellingPair]]]:
    """The distributions of ``dataset.characteristics``, and the telling pairs of each label; of every label with
    ``dataset.min_flows`` flows or more."""
    check_partitions(partitions, settings, flow)
    files = partition_files(partitions)
    set_phase(spark, "describe", f"count the characteristics of {len(files):,} files of flows")
    source = Source(files, later_flows(spark, partitions), devices.at(files, spark), settings, flow.max_packets)
    count = partial(_count, source=source)
    found = summarise(map_batches(task_ids(spark, range(len(files))), count, _COUNTED).toArrow(), settings.min_flows)
    set_phase(spark, "describe", f"count pairs of packets of {len(files):,} files of flows")
    count = partial(telling_pairs.count, source=source)
    pairs = map_batches(task_ids(spark, range(len(files))), count, telling_pairs.COUNTED).toArrow()
    return found, telling_pairs.choose(pairs, {label for label, _, _ in found})


def summarise(counted: pa.Table, min_flows: int) -> Distributions:
    """The distributions, from counts of several tasks."""
    keys = ["label", "characteristic", "measure", "steps"]
    summed = counted.group_by(keys, use_threads=False).aggregate([("flows", "sum")])
    summed = summed.sort_by([(key, "ascending") for key in keys])
    found: dict[tuple[str, str, str], tuple[list[float], list[int]]] = {}
    columns = (summed[name].to_pylist() for name in (*keys, "flows_sum"))
    for label, characteristic, measure, steps, flows in zip(*columns, strict=True):
        values, own = found.setdefault((label, characteristic, measure), ([], []))
        values.append(steps * _STEP[measure])
        own.append(flows)
    return {
        key: Spread(np.array(values), np.array(own)) for key, (values, own) in found.items() if sum(own) >= min_flows
    }


def similar_labels(traffic: Distributions, devices: DeviceList, kind: str) -> dict[str, list[str]]:
    """Vendor and type -> the labels of both."""
    groups: dict[str, list[str]] = {}
    for label, name in devices.device_kinds(kind, dict.fromkeys(label for label, _, _ in traffic)).items():
        groups.setdefault(name, []).append(label)
    return groups


def to_json(traffic: Distributions) -> list[dict[str, object]]:
    """One entry for each distribution."""
    return [
        {
            "label": label,
            "characteristic": characteristic,
            "measure": measure,
            "values": spread.values.round(2).tolist(),
            "flows": spread.flows.tolist(),
        }
        for (label, characteristic, measure), spread in traffic.items()
    ]


def _count(tasks: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    for number in read_task_ids(tasks):
        counts: Counter[tuple[str, str, str, int]] = Counter()
        for flows, label_N, _, _ in source.read(number, source.sequence_columns, Counter()):
            for name, characteristic in select_characteristics(source.settings.characteristics).items():
                lists = quantise_column(flows, characteristic, source.max_packets)
                for measure, value_N in measures(lists).items():
                    steps_N = np.rint(value_N / _STEP[measure]).astype(np.int64)
                    pairs, seen = np.unique(np.stack([label_N, steps_N]), axis=1, return_counts=True)
                    for (label, steps), flows_seen in zip(pairs.T.tolist(), seen.tolist(), strict=True):
                        counts[source.labels[label], name, measure, steps] += flows_seen
        rows = [[*key, flows] for key, flows in counts.items()]
        columns = zip(*rows, strict=True) if rows else [[] for _ in _COUNTED]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _COUNTED, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_COUNTED)


def measures(lists: pa.ListArray) -> dict[str, NDArray[np.float64]]:
    """(N,) mean and Shannon entropy in bits of the values of each of N lists; 0 for an empty list."""
    length_N = np.diff(lists.offsets.to_numpy())
    value_P = lists.values.to_numpy()[lists.offsets[0].as_py() : lists.offsets[-1].as_py()].astype(np.float64)
    flow_P = np.repeat(np.arange(len(length_N)), length_N)
    mean_N = np.bincount(flow_P, weights=value_P, minlength=len(length_N)) / np.maximum(length_N, 1)
    (flow_V, _), times_V = np.unique(np.stack([flow_P, value_P]), axis=1, return_counts=True)
    flow_V = flow_V.astype(np.int64)
    share_V = times_V / length_N[flow_V]
    entropy_N = np.bincount(flow_V, weights=-share_V * np.log2(share_V), minlength=len(length_N))
    return {MEAN: mean_N, ENTROPY: np.maximum(entropy_N, 0.0)}
