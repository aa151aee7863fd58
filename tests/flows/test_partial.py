"""Partial flows: one small row however many packets, and what the shuffle and the next date get of them."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flow_cutting import ACK, EPOCH, HOUR, PATHS, A, B, Build, R, ntp, partial_flows, row, rule

from iotid.errors import DataError
from iotid.flows.layout import PACKET_WIDTH
from iotid.flows.open_flows import OpenFlows
from iotid.flows.partial import FlowTable, Partials
from iotid.flows.tasks import _blocks
from iotid.spark.shuffle import Buckets, read_blocks, read_tables


@pytest.mark.parametrize("seed", [2, 5])
def test_partial__of_packets_far_from_the_order_of_time_is_that_of_packets_in_order(
    seed: int, random_rows: Any, packets_of: Build
) -> None:
    times = [EPOCH + timedelta(seconds=number % 7) for number in range(200)]  # many packets at each
    rows = [each | {"timestamp": time} for each, time in zip(random_rows(seed, 200, PATHS), times, strict=True)]
    ordered = sorted(rows, key=lambda each: (each["timestamp"], each["capture_file"], each["offset"]))
    expected = partial_flows(packets_of(ordered, PATHS), rule(idle_timeout_s=2))
    for some in (rows[::-1], random.Random(seed).sample(rows, len(rows))):
        assert partial_flows(packets_of(some, PATHS), rule(idle_timeout_s=2)).equals(expected)


@pytest.mark.parametrize(("name", "most"), [("offset", 2**42 - 1), ("file_index", 2**21 - 1)])
def test_partial__larger_captures_and_more_files_than_an_order_key_holds_are_refused(
    name: str, most: int, packets_of: Build
) -> None:
    packets = packets_of([row()], PATHS)
    getattr(packets, name)[:] = most
    assert partial_flows(packets, rule()).num_rows == 1
    getattr(packets, name)[:] = most + 1
    with pytest.raises(DataError, match=f"{2**42} bytes and a date {2**21} captures"):
        partial_flows(packets, rule())


def test_partial__a_device_that_sends_hourly_is_one_row_whatever_its_routers_do(packets_of: Build) -> None:
    rows = [ntp(n, HOUR * n, A, remote=[B, R][n % 2]) for n in range(100)]
    assert partial_flows(packets_of(rows, PATHS), rule()).num_rows == 1


def test_flow__of_many_packets_is_one_small_row(packets_of: Build) -> None:
    rows = [row(number, number / 1000, ACK) for number in range(3000)]
    batch = partial_flows(packets_of(rows, PATHS), rule(max_packets=32))
    assert batch.num_rows == 1
    assert batch.nbytes < 2048


def test_from_arrow__first_packets_of_another_width_are_an_error(packets_of: Build) -> None:
    batch = partial_flows(packets_of([row(data=b"abc")], PATHS, 8 * PACKET_WIDTH), rule(keep_bytes=8 * PACKET_WIDTH))
    assert len(Partials.from_arrow(batch, 2 * PACKET_WIDTH).first_packets) == 1
    with pytest.raises(AssertionError, match="another width"):
        Partials.from_arrow(batch)


def test_table__a_flow_of_many_packets_takes_no_more_memory_than_one_of_max_packets(packets_of: Build) -> None:
    one = packets_of([row()], PATHS)
    sizes = []
    for count in (4, 100_000):
        many = one.take(np.zeros(count, np.int64))
        many.offset[:] = np.arange(count)
        many.timestamp_us[:] += np.arange(count)
        table = FlowTable(rule(idle_timeout_s=60.0))
        for start in range(0, count, 30_000):
            table.add(many.take(slice(start, start + 30_000)))
        sizes.append(table.nbytes)
        (partials,) = [table.flush()]
        assert partials.packets.tolist() == [count]
        assert len(partials.first_packets) == 4
    assert sizes[0] == sizes[1]


def test_table__flushed_in_any_order_has_the_same_rows(packets_of: Build) -> None:
    """The rows of flows that a table hands out without copying are not overwritten by the next ones."""
    packets = packets_of([row(number, number, source_port=number % 40) for number in range(800)], PATHS)
    table = FlowTable(rule(max_packets=8))
    flushed = []
    for in_order in (True, False, True, False):
        table.add(packets)
        flushed.append(table.flush(in_order=in_order))
        table.add(packets.take(slice(400, 800)))
        table.flush()
    assert [each.order is None for each in flushed] == [True, False, True, False]
    everything = np.arange(len(flushed[0]))
    (first, *others) = [each.take(everything) for each in flushed]
    for other in others:
        for name in ("keys", "state", "starts", "first_packets"):
            assert (getattr(other, name) == getattr(first, name)).all()


def test_table__nbytes_is_the_size_of_what_it_holds(packets_of: Build) -> None:
    packets = packets_of([row(number, number, source_port=number % 40) for number in range(800)], PATHS)
    table = FlowTable(rule(max_packets=32))
    empty = table.nbytes
    table.add(packets)
    reported, partials = table.nbytes - empty, table.flush()
    held = partials.keys.nbytes + partials.state.nbytes + partials.first_packets.nbytes
    assert held <= reported < 1.5 * held
    assert table.nbytes == empty


def test_blocks__of_a_subscriber_with_nearly_all_flows_are_spread_evenly(
    packets_of: Build,
) -> None:
    buckets, runs, flows, elephant = Buckets(8, b"of this test"), 3, 4000, 6000
    sent = []
    for run in range(runs):
        table = FlowTable(rule(), run)
        start = run * 100_000
        # all flows are of one address; the elephant flow, one row a task, has more packets than all others together
        rows = [row(start + n, start + n, source_port=1024 + n % flows) for n in range(flows)]
        rows += [row(start + flows + n, start + flows + n, source_port=9) for n in range(elephant)]
        table.add(packets_of(rows, PATHS))
        partials = table.flush()
        assert len(partials) == flows + 1
        sent.append(_blocks(partials, buckets))
    of_partition = np.zeros(buckets.partitions, int)
    for bucket, blocks in read_blocks(pa.Table.from_batches(sent).sort_by("bucket").to_batches()):
        of_partition[bucket // buckets.each] += sum(len(rows) for _, rows in read_tables(blocks))
    assert of_partition.sum() == runs * (flows + 1)
    assert of_partition.max() < 1.15 * of_partition.mean(), of_partition


def test_open_flows__are_the_same_table_in_whatever_order_flows_came(packets_of: Build) -> None:
    settings = rule(idle_timeout_s=20)
    flows = Partials.from_arrow(
        partial_flows(packets_of([row(n, n, source_port=n % 40) for n in range(100)], PATHS), settings)
    )
    dice = np.random.default_rng(1)

    def table(order: Any) -> pa.Table:
        still_open = OpenFlows(settings)
        for some in np.array_split(order, 3):
            still_open.add(flows.take(some))
        return pa.concat_tables(still_open.tables(pa.array(PATHS), 0, 7))

    first = table(np.arange(len(flows)))
    assert 10 < len(first) < len(flows)
    assert first["first_us"].to_pylist() == sorted(first["first_us"].to_pylist())
    assert all(table(dice.permutation(len(flows))) == first for _ in range(5))
