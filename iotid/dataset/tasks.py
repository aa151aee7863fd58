"""What workers of the Spark job run: files of flows into units, rows and, in the end, files of a dataset.

Two passes over the flows. The first counts what becomes of each and tells the units of each label, of which the driver
makes the split. The second knows label and part of each flow: equal rows become one in the worker that read them, then
in the bucket where they meet; and when all are counted, each worker writes those that it has.

Shape suffixes: N flows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.dataset.characteristics import Encoding, quantise_column, select_characteristics
from iotid.dataset.hashes import hash_for_buckets, hash_rows
from iotid.dataset.packed import pack, unpack
from iotid.dataset.sets import SCHEMA, FlowSets, at_once, few
from iotid.dataset.split_protocols import (
    CAPTURE_IDENTITY,
    DATASET_SPLITS,
    NIGHT_IDENTITY,
    Doubt,
    FileSplit,
    Summary,
    columns_read,
    distinct_units,
    positions,
    summarise,
)
from iotid.dataset.store import WEIGHT, part_schema
from iotid.flows import IDENTITY_COLUMNS
from iotid.labels import routers
from iotid.labels.device_list import UNLISTED, DeviceList
from iotid.labels.hosts import READ, name_devices
from iotid.labels.owner import is_shown, parse_addresses
from iotid.spark.shuffle import (
    NO_BUCKET,
    Buckets,
    local_block,
    read_blocks,
    read_tables,
    read_task_ids,
    shuffle_blocks,
    side_output,
    with_bucket,
)
from iotid.storage import OutputFile

CONTINUED, OTHER_PROTOCOL, ON_NO_LIST, CONFLICT, LABELLED = (
    "continued", "other_protocol", "unlisted", "conflict", "labelled",
)  # fmt: skip
DEVICE, HOST = "device", "host"  # beside these: labelled flows by device's name, unlisted ones by the host that began
_MAX_HOSTS = 1 << 16  # that a file counts, the busiest; a site has fewer

_OUTCOMES, _VOTES, _SUMMARIES, _ANSWERS, _VALUES, _ROWS, _SETS = (
    "outcomes", "votes", "summaries", "answers", "values", "rows", "sets",
)  # fmt: skip
_EVIDENCE = ("capture_file", "first_seen", *READ)
_ROW = pa.schema(
    [
        pa.field("part", pa.int8()),
        pa.field("label", pa.int32()),
        pa.field("hash", pa.uint64()),
        pa.field("sequences", pa.binary()),
        pa.field(WEIGHT, pa.int64()),
    ]
)
_HELD_ROWS = 1 << 18  # rows that a task gathers before it sends them


class FlowFile(routers.FlowFile, Protocol):
    """One that also knows which of its flows a later night continues; `FlowFile` is one."""

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray: ...


class Labelled(NamedTuple):
    """N flows; the index of each into ``Source.labels``, and the number of its device in the list, or -1.

    ``unlisted``: flows that get no label, because no entry of the list fits.
    """

    flows: pa.RecordBatch
    label: NDArray[np.int32]
    device: NDArray[np.int32]
    unlisted: pa.RecordBatch


@dataclass(frozen=True)
class Source:
    """The flows of some nights and what is asked of each."""

    files: Sequence[FlowFile]
    later: pa.Table | tuple[()]  # of `flows.later_flows`
    devices: DeviceList
    settings: config.Dataset
    max_packets: int

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All that a flow may get."""
        return tuple(sorted({*self.devices.labels(self.settings.label), UNLISTED}))

    def read(
        self,
        number: int,
        columns: Iterable[str],
        outcomes: Counter[tuple[str, str]],
        hosts: Counter[str] | None = None,
    ) -> Iterator[Labelled]:
        """Flows of a file that have a label, batch by batch; others are counted, and in ``hosts`` who began them."""
        file, keep_unlisted = self.files[number], self.settings.unlisted == "unknown"
        names = self.devices.labels(self.settings.label)
        label_of = np.array([self.labels.index(name) for name in (*names, UNLISTED)], np.int32)
        protocols = pa.array(self.settings.protocols, pa.int32())
        told_by = IDENTITY_COLUMNS if len(self.later) else ()
        for read in file.read(dict.fromkeys(["protocol", *_EVIDENCE, *told_by, *columns])):
            flows = read
            if told_by:
                flows = flows.filter(pc.invert(file.superseded(flows, self.later)))
                outcomes[CONTINUED, ""] += read.num_rows - flows.num_rows
            of_all = flows.num_rows
            flows = flows.filter(pc.is_in(flows["protocol"], value_set=protocols))
            outcomes[OTHER_PROTOCOL, ""] += of_all - flows.num_rows
            device_N, conflict_N = self.devices.resolve(flows, file.site)
            kept_N = (device_N >= 0) | (~conflict_N & keep_unlisted)
            conflicts = int(conflict_N.sum())
            outcomes[CONFLICT, ""] += conflicts
            outcomes[ON_NO_LIST, ""] += flows.num_rows - int(kept_N.sum()) - conflicts
            if hosts is not None:
                _count_hosts(flows.filter(pa.array((device_N < 0) & ~conflict_N)), hosts)
            unlisted = flows.filter(pa.array(~kept_N & ~conflict_N))
            device_N = device_N[kept_N]
            yield Labelled(flows.filter(pa.array(kept_N)), label_of[device_N], device_N, unlisted)  # -1 takes the last

    def packed(self, flows: pa.RecordBatch) -> pa.BinaryArray:
        """(N,) all sequences of each flow."""
        chosen = select_characteristics(self.settings.characteristics).values()
        return pack([quantise_column(flows, each, self.max_packets) for each in chosen])

    @property
    def sequence_columns(self) -> list[str]:
        return [each.column for each in select_characteristics(self.settings.characteristics).values()]

    def positions(self, flows: pa.RecordBatch, label_N: NDArray[np.int32], packed: pa.BinaryArray) -> Any:
        """(N,) as `partition.positions`."""
        label_hash = hash_rows([pa.array(self.labels)])
        return positions(flows, self.settings, label_hash[label_N], packed)


def look(tasks: Iterable[pa.RecordBatch], source: Source, buckets: Buckets) -> Iterator[pa.RecordBatch]:
    """First pass: BLOCKS of the units of each label, or the votes on captures, and what became of every flow."""
    protocol = source.settings.protocol
    columns = [*columns_read(protocol), *(source.sequence_columns if protocol == "random_unique" else [])]
    for number in read_task_ids(tasks):
        outcomes: Counter[tuple[str, str]] = Counter()
        found: list[tuple[NDArray[np.int32], Any]] = []
        votes: Counter[tuple[int, int]] = Counter()
        hosts: Counter[str] = Counter()
        for flows, label_N, device_N, _ in source.read(number, columns, outcomes, hosts):
            labels, counts = np.unique(label_N, return_counts=True)
            outcomes.update({(LABELLED, source.labels[i]): n for i, n in zip(labels, counts.tolist(), strict=True)})
            for device, flows_of in zip(*np.unique(device_N[device_N >= 0], return_counts=True), strict=True):
                outcomes[DEVICE, source.devices.devices[device].name] += int(flows_of)
            packed = source.packed(flows) if protocol == "random_unique" else None
            position_N = source.positions(flows, label_N, packed)
            if protocol == "by_capture":
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
        schema = _schema("outcome string, label string, flows int64")
        yield with_bucket(side_output(_OUTCOMES, pa.Table.from_pylist(counted, schema)))
        told = [{"position": at, "label": source.labels[label], "flows": n} for (at, label), n in votes.items()]
        schema = _schema("position int64, label string, flows int64")
        yield with_bucket(side_output(_VOTES, pa.Table.from_pylist(told, schema)))


def _count_hosts(flows: pa.RecordBatch, hosts: Counter[str]) -> None:
    """Count the clients of flows, by MAC where one is shown, else by address."""
    mac = flows["client_mac"]
    for host in pc.value_counts(pc.if_else(pa.array(is_shown(mac)), mac, flows["client_ip"])).to_pylist():
        hosts[host["values"]] += host["counts"]


def busiest(hosts: Counter[str], most: int) -> dict[str, int]:
    """The hosts with most flows; of equal ones the first by name, whatever the order in which they were counted."""
    return dict(sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:most])


def _schema(text: str) -> pa.Schema:
    return pa.schema([tuple(field.split()) for field in text.split(", ")])


def _units(found: Sequence[tuple[NDArray[np.int32], Any]], buckets: Buckets) -> pa.RecordBatch:
    units = distinct_units(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    label_U = np.repeat(np.array([label for label, _ in units], np.int32), [len(own) for _, own in units])
    position_U = np.concatenate([own for _, own in units]) if units else np.empty(0, np.int64)
    rows = pa.RecordBatch.from_arrays([pa.array(label_U), pa.array(position_U)], names=["label", "position"])
    return shuffle_blocks(rows, buckets.hashed([position_U.view(np.uint64)]), buckets)


def _units_of(pieces: Sequence[pa.RecordBatch]) -> list[tuple[int, Any]]:
    units = pa.concat_tables([table for _, table in read_tables(pieces)])
    return distinct_units(units["label"].to_numpy(), units["position"].to_numpy())


def sum_up_units(batches: Iterable[pa.RecordBatch], number: int) -> Iterator[pa.RecordBatch]:
    """SIDE_OUTPUTS: what travelled aside, and a summary of each bucket's units; ``number``: of buckets, in all."""
    schema = pa.schema(
        {"label": pa.int32(), "count": pa.int64(), "step": pa.int64(), "positions": pa.list_(pa.int64())}
    )
    for bucket, pieces in read_blocks(batches):
        if bucket == NO_BUCKET:
            yield from pieces
        else:
            rows = [vars(summary) for summary in summarise(_units_of(pieces), number)]
            yield side_output(_SUMMARIES, pa.Table.from_pylist(rows, schema))


def look_closer(batches: Iterable[pa.RecordBatch], doubts: Sequence[Doubt]) -> Iterator[pa.RecordBatch]:
    """SIDE_OUTPUTS: of every bucket the units that are in doubt."""
    schema = pa.schema({"doubt": pa.int32(), "below": pa.int64(), "positions": pa.list_(pa.int64())})
    for bucket, pieces in read_blocks(batches):
        if bucket != NO_BUCKET:
            units = dict(_units_of(pieces))
            nothing = np.empty(0, np.int64)
            found = [doubt.among(units.get(doubt.label, nothing)) for doubt in doubts]
            rows = [{"doubt": i, "below": below, "positions": own} for i, (below, own) in enumerate(found)]
            yield side_output(_ANSWERS, pa.Table.from_pylist(rows, schema))


def deal(
    tasks: Iterable[pa.RecordBatch], source: Source, split: FileSplit, labels: Sequence[str], buckets: Buckets
) -> Iterator[pa.RecordBatch]:
    """Second pass: BLOCKS of the rows of ``labels``; how often each value was seen in training; and some sets.

    With ``settings.unique`` a row is a distinct (part, label, sequences) of what the task has gathered.
    """
    place = {name: number for number, name in enumerate(labels)}
    label_of = np.array([place.get(name, -1) for name in source.labels], np.int32)
    columns = [*columns_read(source.settings.protocol), *CAPTURE_IDENTITY, "last_seen"]
    columns += source.sequence_columns
    for number in read_task_ids(tasks):
        gathered = _Gathered(source.settings, buckets)
        together = _Together(source, source.files[number].site)
        for read, read_N, device_N, unlisted in source.read(number, columns, Counter()):
            kept_N = label_of[read_N] >= 0
            flows, label_N = read.filter(pa.array(kept_N)), read_N[kept_N]
            packed = source.packed(flows)
            part_N = split.parts(label_N, source.positions(flows, label_N, packed))
            is_learned_N = part_N != DATASET_SPLITS.index("test")
            together.add(flows, packed, is_learned_N, label_of[label_N], device_N[kept_N])
            together.add_unlisted(unlisted)
            yield from gathered.add(part_N, label_of[label_N], packed)
        yield from gathered.send()
        yield with_bucket(side_output(_SETS, together.table()))
        yield with_bucket(side_output(_VALUES, gathered.seen()))


class _Gathered:
    """Rows that a task has gathered and not yet sent."""

    def __init__(self, settings: config.Dataset, buckets: Buckets) -> None:
        self._settings = settings
        self._buckets = buckets
        self._rows: list[pa.Table] = []
        self._seen: dict[str, Counter[int]] = {name: Counter() for name in settings.characteristics}

    def add(
        self, part_N: NDArray[np.int8], label_N: NDArray[np.int32], packed: pa.BinaryArray
    ) -> Iterator[pa.RecordBatch]:
        ones = np.ones(len(packed), np.int64)
        names = ["part", "label", "sequences", WEIGHT]
        rows = pa.table([pa.array(part_N), pa.array(label_N), packed, pa.array(ones)], names=names)
        self._rows.append(_distinct(rows) if self._settings.unique else rows)
        if sum(map(len, self._rows)) > _HELD_ROWS:
            if self._settings.unique:
                self._rows = [_distinct(pa.concat_tables(self._rows))]
            if not self._settings.unique or len(self._rows[0]) > _HELD_ROWS // 2:
                yield from self.send()

    def send(self) -> Iterator[pa.RecordBatch]:
        if not self._rows:
            return
        rows = pa.concat_tables(self._rows)
        rows = (_distinct(rows) if self._settings.unique else rows).combine_chunks()
        self._rows = []
        for batch in rows.to_batches():
            self._see(batch.filter(pc.equal(batch["part"], DATASET_SPLITS.index("train"))))
            hash_N = hash_for_buckets([batch["sequences"], batch["label"]], self._buckets)
            columns = {**{name: batch[name] for name in batch.schema.names}, "hash": pa.array(hash_N)}
            dealt = pa.RecordBatch.from_arrays([columns[name] for name in _ROW.names], schema=_ROW)
            yield shuffle_blocks(dealt, hash_N, self._buckets)

    def _see(self, rows: pa.RecordBatch) -> None:
        flows_N = rows[WEIGHT].to_numpy()
        for seen, lists in zip(self._seen.values(), unpack(rows["sequences"], len(self._seen)), strict=True):
            weight = np.repeat(flows_N, np.diff(lists.offsets.to_numpy()))
            values, place = np.unique(lists.values.to_numpy(), return_inverse=True)
            times = np.bincount(place, weights=weight, minlength=len(values)).astype(np.int64)
            seen.update(dict(zip(values.tolist(), times.tolist(), strict=True)))

    def seen(self) -> pa.Table:
        rows = [
            {"name": name, "value": value, "seen": times}
            for name, seen in self._seen.items()
            for value, times in seen.items()
        ]
        return pa.Table.from_pylist(rows, _schema("name string, value int64, seen int64"))


class _Together:
    """Flows by device and capture, of few such of each label, and of hosts that no entry of the list names.

    Of training and validation alone; and only flows that the device opened or answered.
    """

    def __init__(self, source: Source, site: str) -> None:
        self._source, self._site = source, source.devices.site(site)
        self._held: list[pa.Table] = []

    def add(
        self,
        flows: pa.RecordBatch,
        packed: pa.BinaryArray,
        kept_N: NDArray[np.bool_],
        label_N: NDArray[np.int32],
        device_N: NDArray[np.int32],
    ) -> None:
        """``label_N``: -1 of what has none; ``device_N``: -1 of hosts, which MAC or address distinguishes."""
        seed = self._source.settings.seed
        host = name_devices(flows, self._site).device
        kept_N = kept_N & pc.is_valid(host).to_numpy(zero_copy_only=False) & self._is_its_own(device_N, host)
        of_host = pc.if_else(pa.array(device_N < 0), host, None)
        night, capture = [flows[name] for name in NIGHT_IDENTITY], _name_of(flows["capture_file"])
        first_us, last_us = (flows[name].cast(pa.int64()) for name in ("first_seen", "last_seen"))
        unit_N, recording_N = (
            hash_rows([*identity, pa.array(device_N), of_host], seed) for identity in ([*night, capture], night)
        )
        columns = [
            pa.array(label_N),
            pa.array(unit_N),
            pa.array(recording_N),
            packed,
            pa.array(np.ones_like(unit_N, np.int64)),
            pc.subtract(last_us, first_us),
            first_us,
            last_us,
        ]
        rows = pa.table(columns, schema=SCHEMA).filter(pa.array(kept_N))
        self._held.append(few(rows, self._source.settings.sets))
        if sum(map(len, self._held)) > _HELD_ROWS:
            self._held = [self.table()]

    def _is_its_own(self, device_N: NDArray[np.int32], host: pa.Array) -> NDArray[np.bool_]:
        """Whether the host of each flow is the entry's, by MAC where the entry lists one: a path may name the flows of
        several hosts, and a census asks what is behind one."""
        encoded = host.dictionary_encode()
        code_N = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        pairs, pair_N = np.unique(np.stack([device_N, code_N]), axis=1, return_inverse=True)
        names, devices = encoded.dictionary.to_pylist(), self._source.devices.devices
        is_address = parse_addresses(names)[0] != 0
        is_own = [
            device < 0 or code < 0 or not devices[device].mac or names[code] in devices[device].mac or is_address[code]
            for device, code in pairs.T.tolist()
        ]
        return np.array(is_own, np.bool_)[pair_N.ravel()]

    def add_unlisted(self, flows: pa.RecordBatch) -> None:
        nobody_N = np.full(len(flows), -1, np.int32)
        self.add(flows, self._source.packed(flows), np.ones(len(flows), np.bool_), nobody_N, nobody_N)

    def table(self) -> pa.Table:
        return few(pa.concat_tables(self._held or [SCHEMA.empty_table()]), self._source.settings.sets)


def _name_of(capture_file: pa.Array) -> pa.DictionaryArray:
    """Folder and name of each capture: the same wherever the folder lies, so that a dataset is, too."""
    encoded = capture_file.dictionary_encode()
    names = pc.replace_substring_regex(encoded.dictionary.cast(pa.string()), r"^.*/([^/]*/[^/]*)$", r"\1")
    return pa.DictionaryArray.from_arrays(encoded.indices, names)


def _distinct(rows: pa.Table) -> pa.Table:
    """Equal rows as one that weighs as much as they do."""
    keys = [name for name in rows.schema.names if name != WEIGHT]
    summed = rows.group_by(keys, use_threads=False).aggregate([(WEIGHT, "sum")])
    return summed.rename_columns([name.removesuffix("_sum") for name in summed.schema.names]).select(rows.schema.names)


def gather(batches: Iterable[pa.RecordBatch], unique: bool) -> Iterator[pa.RecordBatch]:
    """BLOCKS: one for each bucket, its rows by part and in the order of their hash; and how many they are."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    for bucket, pieces in read_blocks(batches):
        if bucket == NO_BUCKET:
            yield from map(with_bucket, pieces)
            continue
        rows = pa.concat_tables([table for _, table in read_tables(pieces)]).combine_chunks()
        rows = _distinct(rows) if unique else rows
        rows = rows.take(pa.array(np.lexsort((rows["hash"].to_numpy(), rows["part"].to_numpy()))))
        counted = rows.group_by(["part", "label"], use_threads=False).aggregate([(WEIGHT, "count"), (WEIGHT, "sum")])
        where = pa.array(np.full(len(counted), context.partitionId(), np.int32))
        yield with_bucket(side_output(_ROWS, counted.append_column("partition", where)))
        yield local_block(bucket, rows)


def write(
    batches: Iterable[pa.RecordBatch], folder: str, encoding: Encoding, group_rows: Sequence[Mapping[str, int]]
) -> Iterator[pa.RecordBatch]:
    """What a partition has gathered into a file of each part; ``group_rows``: rows of a row group, by partition."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    schema = part_schema(encoding)
    name, own = f"part-{context.partitionId():05}.parquet", group_rows[context.partitionId()]
    files = {
        part: OutputFile(f"{folder}/{part}", name, context.taskAttemptId(), schema, rows) for part, rows in own.items()
    }
    whole = False
    try:
        for bucket, pieces in read_blocks(batches):
            if bucket == NO_BUCKET:
                continue
            for _, rows in read_tables(pieces):
                for number, part in enumerate(DATASET_SPLITS):
                    of_part = rows.filter(pc.equal(rows["part"], number))
                    if len(of_part):
                        files[part].write(_encoded(of_part, encoding, schema))
        whole = True
    finally:
        for file in files.values():
            file.close(whole=whole)
    yield from ()


def sets_of(rows: Sequence[pa.Table], encoding: Encoding, most: int) -> FlowSets:
    """The sets of all tasks, as ids; the same whatever the order in which the tasks ended."""
    together = few(pa.concat_tables([SCHEMA.empty_table(), *rows]), most)
    together = together.sort_by([(name, "ascending") for name in SCHEMA.names])
    lists = unpack(together["sequences"].combine_chunks(), len(encoding.columns))
    ids = encoding.encode(pa.RecordBatch.from_arrays(lists, names=list(encoding.columns)))
    unit_R, label_R = together["unit"].to_numpy().view(np.int64), together["label"].to_numpy().astype(np.int64)
    recording_R = together["recording"].to_numpy().view(np.int64)
    num_flows_R, open_us_R, first_us_R, last_us_R = (together[name].to_numpy() for name in SCHEMA.names[-4:])
    at_once_R = at_once(num_flows_R, open_us_R, last_us_R - first_us_R)
    return FlowSets.of(ids, unit_R, label_R, num_flows_R, recording_R, at_once_R)


def _encoded(rows: pa.Table, encoding: Encoding, schema: pa.Schema) -> pa.Table:
    lists = unpack(rows["sequences"].combine_chunks(), len(encoding.columns))
    ids = encoding.encode(pa.RecordBatch.from_arrays(lists, names=list(encoding.columns)))
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * encoding.max_packets)
    sequences = [
        pa.ListArray.from_arrays(offsets, pa.array(ids_NM.ravel()), type=schema.field(0).type)
        for ids_NM in ids.values()
    ]
    return pa.Table.from_arrays([*sequences, rows["label"], rows[WEIGHT].cast(pa.int32())], schema=schema)


@dataclass
class Told:
    """What travelled aside of one job."""

    outcomes: Counter[tuple[str, str]]
    votes: list[tuple[int, str, int]]
    summaries: list[Summary]
    answers: dict[int, list[tuple[int, Any]]]
    seen: dict[str, Counter[int]]
    rows: list[dict[str, int]]
    sets: list[pa.Table]

    @staticmethod
    def of(side_outputs: pa.Table) -> Told:
        told = Told(Counter(), [], [], {}, {}, [], [])
        for kind, table in read_tables(side_outputs):
            if kind == _SETS:
                told.sets.append(table)
                continue
            columns = [column.to_pylist() for column in table.columns if column.type != pa.list_(pa.int64())]
            arrays = [row.values.to_numpy() for row in table["positions"]] if "positions" in table.schema.names else []
            if kind == _OUTCOMES:
                for outcome, label, flows in zip(*columns, strict=True):
                    told.outcomes[outcome, label] += flows
            elif kind == _VOTES:
                told.votes += zip(*columns, strict=True)
            elif kind == _SUMMARIES:
                told.summaries += map(Summary, *columns, arrays)
            elif kind == _ANSWERS:
                for doubt, below, own in zip(*columns, arrays, strict=True):
                    told.answers.setdefault(doubt, []).append((below, own))
            elif kind == _VALUES:
                for name, value, seen in zip(*columns, strict=True):
                    told.seen.setdefault(name, Counter())[value] += seen
            else:
                told.rows += table.to_pylist()
        return told
