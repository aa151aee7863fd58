"""Merging: any batches give the same flows, and intervals that are not decided are marked."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from flow_cutting import ACK, FIN, PATHS, RST, SYN, Build, cut_at_random, merge_flows, partial_flows, row, rule

from iotid.flows.layout import PACKET_WIDTH
from iotid.flows.merge import Merger, merge
from iotid.flows.partial import FlowTable, Partials, packet_width, single_packets


@pytest.mark.parametrize("seed", range(20))
def test_merge__batches_of_any_size_give_what_one_batch_gives(seed: int, random_rows: Any, packets_of: Build) -> None:
    dice = random.Random(seed)
    settings = rule(
        idle_timeout_s=dice.choice([None, 10]), active_timeout_s=dice.choice([None, 12]),
        keep_bytes=dice.choice([0, 9]), keep_packets=2, header_fields=dice.random() < 0.5,
    )  # fmt: skip
    kept = (settings.keep_bytes, settings.header_fields)
    runs = [packets_of(run, PATHS, *kept) for run in cut_at_random(random_rows(seed, 150, PATHS), dice)]
    width = packet_width(settings)
    parts = [Partials.from_arrow(partial_flows(run, settings, task), width) for task, run in enumerate(runs)]
    ordered = Partials.concat(parts).in_merge_order()

    def merged(sizes: int) -> list[list[Any]]:
        merger = Merger(settings)
        found = [
            merger.add(ordered.take(range(a, min(a + sizes, len(ordered))))) for a in range(0, len(ordered), sizes)
        ]
        found.append(merger.finish())
        return [Partials.concat(list(several)).to_arrow().to_pylist() for several in zip(*found, strict=True)]

    assert merged(1) == merged(7) == merged(len(ordered))


def test_merge__many_partial_flows_of_one_key_are_held_back_as_one_row(packets_of: Build) -> None:
    settings = rule()
    merger = Merger(settings)
    for number in range(50):
        part = Partials.from_arrow(partial_flows(packets_of([row(number, number)], PATHS), settings, number))
        assert len(merger.add(part).flows) == 0
    (flow,) = merger.finish().flows.to_arrow().to_pylist()
    assert len(flow["packets"]) == 4 * 8 * settings.max_packets


def test_merge__no_row_has_bytes_of_more_than_the_first_packets(
    packets_of: Build,
) -> None:
    settings = rule(keep_bytes=12, keep_packets=2)
    rows = [row(number, number, data=bytes([number + 1] * 30)) for number in range(4)]
    whole = packets_of(rows, PATHS, 12)
    table = FlowTable(settings)
    table.add(whole)
    expected = [bytes([number + 1] * 12) + bytes(4) for number in range(2)] + [bytes(16)] * 2
    for flows in (table.flush(), merge(single_packets(whole, settings), settings).flows):
        assert [words.tobytes() for words in flows.first_packets[:, PACKET_WIDTH:]] == expected


def test_merge__order_in_one_capture_leaves_nothing_unresolved(packets_of: Build) -> None:
    """With every packet in time order and no active time-out the packets are read once only."""
    settings = rule(idle_timeout_s=10)
    rows = [
        row(number, number, [SYN, SYN | ACK, ACK, FIN | ACK, FIN | ACK, SYN, ACK, RST][number % 8], up=number % 3 > 0)
        for number in range(64)
    ]
    parts = [partial_flows(packets_of(rows[a : a + 5], PATHS), settings, a) for a in range(0, 64, 5)]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert (len(unresolved), sum(flows["client_packets"].to_pylist()) + sum(flows["server_packets"].to_pylist())) == (
        0,
        64,
    )


def test_merge__syn_that_a_later_read_reset_should_cut_at_is_unresolved(packets_of: Build) -> None:
    settings = rule()
    own, other = [row(0, 0, SYN), row(1, 4, SYN), row(2, 5)], [row(3, 2, RST, up=False)]
    parts = [partial_flows(packets_of(rows, PATHS), settings, task) for task, rows in enumerate([own, other])]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert (len(flows), sorted(unresolved["task"].to_pylist())) == (0, [0, 1])


def test_merge__syn_behind_a_late_packet_cuts_without_a_second_read(packets_of: Build) -> None:
    """A split that starts after the close, inside the old flow: its own packets do not show that it is closed."""
    settings = rule()
    runs = [[row(0, 0, SYN), row(1, 1, RST, up=False)], [row(2, 2), row(3, 3, SYN), row(4, 4)]]
    parts = [partial_flows(packets_of(rows, PATHS), settings, task) for task, rows in enumerate(runs)]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert ([flow["end_reason"] for flow in flows.to_pylist()], len(unresolved)) == (["closed", "end"], 0)
