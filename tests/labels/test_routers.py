"""Which MACs are routers'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pytest

from iotid.labels.owner import Networks
from iotid.labels.routers import MOST_NETWORKS, find_routers

INSIDE = Networks(["192.168.0.0/16", "fe80::/10"])
CAM, PLUG, GATE, OTHER = (f"02:00:00:00:00:0{digit}" for digit in "abcd")
Flow = tuple[str, str | None, str, str | None, int]  # client and server, address and MAC; packets of the server


class Held(NamedTuple):
    flows: list[Flow]
    site: str = "lab"

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        names = ["client_ip", "client_mac", "server_ip", "server_mac", "server_packets"]
        table = pa.table([pa.array(list(column)) for column in zip(*self.flows, strict=True)], names)
        table = table.append_column("client_packets", pa.array([1] * len(table)))
        yield from table.select(list(columns)).to_batches(max_chunksize=2)


ASKS = ("192.168.1.5", CAM, "52.1.2.3", GATE, 3)


@pytest.mark.parametrize(
    ("flows", "routers"),
    [
        ([ASKS], {GATE}),
        ([("192.168.1.5", CAM, "52.1.2.3", GATE, 0), ("52.9.9.9", OTHER, "192.168.1.5", CAM, 1)], {OTHER}),
        # a device with an address from elsewhere, whom it asks and who asks it
        ([ASKS, ("100.64.0.9", PLUG, "52.1.2.3", GATE, 3)], {GATE}),
        ([ASKS, ("100.64.0.9", PLUG, "192.168.1.5", CAM, 3)], {GATE}),
        ([ASKS, ("52.7.7.7", GATE, "2001:db8::9", PLUG, 3)], {GATE}),
        # strangers ask a device that answers; nobody inside asked it
        ([ASKS, *((f"52.{n}.1.1", GATE, "203.0.113.5", PLUG, 1) for n in range(9))], {GATE}),
        # a MAC that answers itself routes nothing
        ([ASKS, ("192.168.1.6", PLUG, "203.0.113.5", PLUG, 1)], {GATE}),
        # as many networks as a device may send from, and one more
        ([ASKS, *((f"100.64.{n}.9", PLUG, "52.1.2.3", GATE, 1) for n in range(MOST_NETWORKS))], {GATE}),
        ([ASKS, *((f"100.64.{n}.9", PLUG, "52.1.2.3", GATE, 1) for n in range(MOST_NETWORKS + 1))], {GATE, PLUG}),
        ([ASKS, *((f"2001:db8::{n}", PLUG, "52.1.2.3", GATE, 1) for n in range(1, 30))], {GATE}),
        # nobody is inside
        (
            [
                ("2001:db8:7::1", CAM, "2600::1", GATE, 1),
                ("2001:db8:7::2", PLUG, "2600:1::1", GATE, 1),
                ("2600:2::1", GATE, "2001:db8:7::1", CAM, 1),
            ],
            {GATE},
        ),
        ([("2001:db8:7::1", CAM, "2600::1", GATE, 1)], {GATE}),
        # no MAC is shown, or only addresses inside
        (
            [("192.168.1.5", None, "52.1.2.3", None, 3), ("192.168.1.5", "00:00:00:00:00:00", "192.168.1.6", PLUG, 1)],
            set(),
        ),
    ],
)
def test_find_routers__are_who_answers_for_addresses_outside(flows: list[Flow], routers: set[str]) -> None:
    assert find_routers([Held(flows)], INSIDE) == {"lab": routers}
    assert find_routers([Held([flow]) for flow in reversed(flows)], INSIDE) == {"lab": routers}


def test_find_routers__of_no_flows_are_none() -> None:
    assert find_routers([], INSIDE) == {}


def test_find_routers__a_router_of_one_site_may_be_a_device_at_another() -> None:
    behind = [("192.168.1.5", GATE, "52.1.2.3", OTHER, 3), ("100.64.0.9", GATE, "52.1.2.3", OTHER, 3)]
    files = [Held([ASKS], "home"), Held(behind, "office")]
    for given in (files, files[::-1]):
        assert find_routers(given, INSIDE) == {"home": {GATE}, "office": {OTHER}}
