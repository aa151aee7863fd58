"""What a partition leaves open and that of the next date resumes, without Spark."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flow_cutting import flow_table

from iotid import config, schemas
from iotid.flows import assemble
from iotid.flows.layout import FIRST, LAST, LAST_SYN, OPENED, PACKET_ORDER, POSITION, SYN, VALUE_COLUMNS
from iotid.flows.merge import merge
from iotid.flows.open_flows import CARRIED, OpenFlows, carries_open_flows, is_carried, load_open_flows
from iotid.flows.partial import FlowTable, Partials, packets_of_intervals
from iotid.flows.partitions import _identity, _superseded
from iotid.partitions import PartitionKey, Store

Row = dict[str, Any]
Build = Callable[..., Any]
PATHS = ["a.pcap", "b.pcap", "c.pcap"]
START = datetime(2024, 2, 29, 23, 0, tzinfo=UTC)
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def rule(**changes: Any) -> config.Flow:
    settings = config.load_settings().flow
    return settings.model_copy(update={"max_packets": 4, "keep_packets": 4, "idle_timeout_s": 100.0} | changes)


def packet(number: int, at_s: float, path: str = "a.pcap", **changes: Any) -> Row:
    given: Row = {
        "capture_file": path, "offset": 24 + 100 * number, "timestamp": START + timedelta(seconds=at_s),
        "link_type": 1, "frame_length": 74, "captured_length": 74, "packet_length": 60, "payload_length": 8,
        "vlan": None, "protocol": 17, "tcp_flags": 0, "tcp_window": 0, "tcp_sequence": None,
        "source_ip": "192.168.1.5", "source_port": 123, "source_mac": A,
        "destination_ip": "52.1.2.3", "destination_port": 123, "destination_mac": "02:00:00:00:00:01",
    }  # fmt: skip
    return given | changes


def syn(number: int, at_s: float, sequence: int, path: str = "a.pcap") -> Row:
    return packet(number, at_s, path, protocol=6, tcp_flags=2, tcp_sequence=sequence)


class Dates:
    """Assembles capture dates one after the other, as the Spark job does."""

    def __init__(self, settings: config.Flow, packets_of: Build) -> None:
        self.settings = settings
        self._packets_of = packets_of
        self._open = schemas.OPEN_FLOWS.arrow_schema().empty_table()
        self._last_us = 0

    def add(self, runs: list[list[Row]], paths: list[str]) -> tuple[pa.Table, pa.Table]:
        """FLOWS as stored of a date, and which of them it continued, as in ``later_flows``."""
        end_before, settings = self._last_us, self.settings
        open_paths = sorted(set(self._open["capture_file"].to_pylist()))
        carried = load_open_flows(self._open, open_paths, settings)
        packets = [self._packets_of(run, paths) for run in runs]
        parts = [carried]
        for task, run in enumerate(packets):
            table = FlowTable(settings, task)
            table.add(run)
            parts.append(table.flush())
        merged = merge(Partials.concat(parts), settings)
        flows, intervals = merged.flows, merged.unresolved
        if len(intervals):
            wanted = {key.tobytes() for key in intervals.keys}
            reread = [carried.take(np.array([i for i, key in enumerate(carried.keys) if key.tobytes() in wanted], int))]
            reread += [packets_of_intervals(packets[task], intervals, settings)
                      for task in np.unique(intervals.task) if task != CARRIED]  # fmt: skip
            rest = merge(Partials.concat(reread), settings)
            assert not len(rest.unresolved)
            flows = Partials.concat([flows, rest.flows])
        still_open = OpenFlows(settings)
        still_open.add(flows)
        names = pa.array([*open_paths, *paths])
        tables = list(still_open.tables(names, len(open_paths), 3))
        self._open = pa.concat_tables([schemas.OPEN_FLOWS.arrow_schema().empty_table(), *tables]).combine_chunks()
        self._last_us = still_open.last_us
        written = flow_table(flows.take(np.flatnonzero(~is_carried(flows))), names, settings, len(open_paths))
        early = written.filter(pa.array(written["first_seen"].cast(pa.int64()).to_numpy() <= end_before))
        key = _identity(early.combine_chunks().to_batches()[0]) if len(early) else pa.array([], pa.string())
        return written, key


def each_flow_once(dates: list[tuple[pa.Table, pa.Array]]) -> list[Row]:
    """The rows of all dates, each flow as the last date with a packet of it has it."""
    rows = []
    for number, (flows, _) in enumerate(dates):
        later = [
            {"key": key, "site": "x", "capture_date": str(after)}
            for after, (_, keys) in enumerate(dates)
            if after > number
            for key in keys.to_pylist()
        ]
        table = pa.Table.from_pylist(
            later, pa.schema([(name, pa.string()) for name in ("key", "site", "capture_date")])
        )
        for batch in flows.to_batches():
            continued = _superseded(batch, table, "x", str(number))
            rows += batch.filter(pa.array(~continued.to_numpy(zero_copy_only=False))).to_pylist()
    return rows


def content(rows: list[Row]) -> Counter[str]:
    """Without end reason: the last flows of a date are open, those of one run are at an end."""
    kept = [{name: value for name, value in row.items() if name != "end_reason"} for row in rows]
    return Counter(json.dumps(row, sort_keys=True, default=str) for row in kept)


@pytest.mark.parametrize("seed", range(30))
def test_dates__one_after_the_other_give_the_references_flows(
    seed: int, random_rows: Any, packets_of: Build, reference: ModuleType
) -> None:
    dice = random.Random(seed)
    settings = rule(idle_timeout_s=dice.choice([30.0, 100.0, 1000.0]), active_timeout_s=dice.choice([None, None, 25.0]))
    rows = sorted(random_rows(seed, 200, ["any"]), key=lambda each: each["timestamp"])
    ends = [0, *sorted(dice.sample(range(20, 180), 2)), 200]
    dates, job, paths = [], Dates(settings, packets_of), []
    for number, (begin, end) in enumerate(pairwise(ends)):
        path = f"{number}.pcap"
        own = [each | {"capture_file": path} for each in rows[begin:end]]
        rows[begin:end] = own
        borders = [0, *sorted(dice.sample(range(len(own)), 3)), len(own)]
        runs = [own[a:b] for a, b in pairwise(borders)]
        dice.shuffle(runs)
        dates.append(job.add(runs, [path]))
        paths.append(path)
    expected = reference.flows(rows, paths, **settings.model_dump())
    assert content(each_flow_once(dates)) == content(expected)


@pytest.mark.parametrize("in_one_run", [True, False])
def test_dates__device_that_gets_an_address_after_midnight_has_a_flow_of_its_own(
    in_one_run: bool, packets_of: Build
) -> None:
    job = Dates(rule(idle_timeout_s=10_000.0), packets_of)
    first = job.add([[packet(0, 0), packet(1, 10)]], ["a.pcap"])
    rows = [packet(0, 4000, "b.pcap", source_mac=B), packet(1, 4001, "b.pcap", source_mac=B)]
    second = job.add([rows] if in_one_run else [[each] for each in rows], ["b.pcap"])
    assert [(row["client_mac"], row["client_packets"]) for row in each_flow_once([first, second])] == [(A, 2), (B, 2)]


def test_dates__new_connection_after_midnight_is_a_new_flow_a_repeated_syn_is_not(
    packets_of: Build,
) -> None:
    for sequence, sizes in ((7, [2]), (5000, [1, 1])):
        job = Dates(rule(), packets_of)
        dates = [job.add([[syn(0, 0, 7)]], ["a.pcap"]), job.add([[syn(0, 50, sequence, "b.pcap")]], ["b.pcap"])]
        assert [row["client_packets"] for row in each_flow_once(dates)] == sizes


def test_open_flows__are_those_not_ended_and_within_the_idle_timeout_of_the_end(
    packets_of: Build,
) -> None:
    settings = rule()
    rows = [packet(n, at_s, source_port=n) for n, at_s in enumerate([0, 50, 49.999999, 150])]
    rows += [packet(9, at_s, source_port=9) for at_s in (10, 140)]  # idle, and then open reread
    table = FlowTable(settings)
    table.add(packets_of(rows, PATHS))
    still_open = OpenFlows(settings)
    still_open.add(merge(table.flush(), settings).flows)
    (left,) = still_open.tables(pa.array(PATHS), 0, 100)
    assert left["last_us"].to_pylist() == [at for at in left["last_us"].to_pylist() if at >= still_open.last_us - 100e6]
    seconds = [(us - int(START.timestamp() * 1e6)) / 1e6 for us in left["first_us"].to_pylist()]
    assert seconds == [50, 140, 150]
    assert left["packets_seen"].to_pylist() == [1, 1, 1]
    assert OpenFlows(settings).tables(pa.array(PATHS), 0, 100) is not None
    assert list(OpenFlows(settings).tables(pa.array(PATHS), 0, 100)) == []


def test_resume__positions_stay_in_order_and_precede_all_that_the_next_date_reads(packets_of: Build) -> None:
    settings = rule()
    rows = [syn(5, 0, 7, "c.pcap"), syn(2, 1, 7, "b.pcap"), packet(3, 0, "a.pcap"), packet(1, 0, "a.pcap")]
    table = FlowTable(settings)
    table.add(packets_of(rows, PATHS))
    still_open = OpenFlows(settings)
    still_open.add(merge(table.flush(), settings).flows)
    (left,) = still_open.tables(pa.array(PATHS), 0, 100)
    assert left["capture_file"].to_pylist() == ["a.pcap", "c.pcap"]
    resumed = load_open_flows(left, ["a.pcap", "c.pcap"], settings)
    assert is_carried(resumed).all()
    assert set(resumed.task.tolist()) == {CARRIED}
    of_udp, of_tcp = resumed.state
    assert of_udp[FIRST + POSITION] < of_udp[LAST + POSITION] < of_tcp[LAST + POSITION] < 0
    assert of_tcp[FIRST + POSITION] == of_tcp[SYN + POSITION] == of_tcp[OPENED + VALUE_COLUMNS + POSITION]
    assert of_tcp[LAST_SYN + POSITION] == of_tcp[LAST + POSITION]
    assert of_udp[OPENED + VALUE_COLUMNS + POSITION] == np.iinfo(np.int64).max, "what was never seen stays so"
    assert (resumed.first_packets[:, PACKET_ORDER + POSITION] < 0).all()


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, True), ({"idle_timeout_s": None}, False), ({"join_files": False}, False)]
)
def test_carries_open_flows__needs_an_idle_time_out_and_joined_files(changes: Row, expected: bool) -> None:
    assert carries_open_flows(rule(**changes)) is expected


@pytest.mark.parametrize(
    ("version", "idle_timeout_s", "continues"), [(0, 100.0, True), (-1, 100.0, False), (0, 99.0, False)]
)
def test_previous_partition__of_another_version_or_other_settings_is_not_continued(
    version: int, idle_timeout_s: float, continues: bool, tmp_path: Path
) -> None:
    store, keys = Store(str(tmp_path)), PartitionKey.of_date("north", "2024-02-29")
    with store.write("flows", keys, schemas.FLOWS.version + version) as staged:
        staged.metadata["settings"] = {"flow": rule(idle_timeout_s=idle_timeout_s).model_dump(mode="json")}
    next_date = PartitionKey.of_date("north", "2024-03-01")
    assert (assemble._previous_partition(store, next_date, rule()) is not None) is continues
    assert assemble._previous_partition(store, keys, rule()) is None, "there is no earlier partition"
    assert assemble._previous_partition(store, next_date, rule(idle_timeout_s=None)) is None
