"""Hosts without a row of their own: what the page counts, and what DHCP alone gives."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from iotid.census.unlisted import hosts_without_row
from iotid.labels.hosts import name_devices
from iotid.labels.owner import Networks, Site

from .report_tables import HOSTILE, census_of, data_of, facts, left_out_of, page_of, text_of

ROUTER, SUBNET = "02:00:00:00:00:fe", [f"10.0.3.{n}" for n in range(20)]


def _counts(rows: list[dict[str, Any]], *left_out: dict[str, Any], **more: Any) -> dict[str, Any]:
    return hosts_without_row(census_of(rows), left_out_of(*left_out), facts(**more))


def test_hosts_without_row__sums_what_is_left_out_by_reason() -> None:
    rows = [
        {"reason": "router", "mac": ROUTER, "addresses": 7},
        {"reason": "router", "mac": None, "addresses": 5, "ends": 2, "in_census": None},
        {"reason": "outside", "address": "52.1.2.3", "addresses": 1},
        {"reason": "unanswered", "address": "192.168.1.9", "addresses": 1},
    ]
    assert dict(_counts([{}], *rows)["counts"]) == {
        "outside addresses behind a router's MAC": 12,
        "MACs of routers in front of outside addresses": 3,
        "outside addresses, no MAC shown": 1,
        "asked and did not answer": 1,
    }


def test_hosts_without_row__counts_a_routed_subnet_behind_one_mac() -> None:
    own = {"addresses": ["10.0.0.9", "10.0.0.10", "fe80::1", "fd00::1", "fd00::2"]}
    rows = [{"device_id": ROUTER, "addresses": SUBNET}, own, {"addresses": SUBNET, "change": "gone"}]
    found = _counts(rows)
    assert found["behind"] == [{"mac": ROUTER, "addresses": 20}]
    assert dict(found["counts"]) == {"addresses that share the row of a MAC": 20}


def test_hosts_without_row__counts_rows_of_hosts_that_have_no_address() -> None:
    rows = [{"addresses": ["0.0.0.0"]}, {"addresses": ["0.0.0.0", "::"]}, {"addresses": ["0.0.0.0", "10.0.0.3"]},
            {"addresses": []}]  # fmt: skip
    ((what, number),) = _counts(rows)["counts"]
    assert what.startswith("without an address: DHCP")
    assert number == 2


def test_hosts_without_row__pseudonyms_show_no_numbers_of_addresses() -> None:
    rows = [{"device_id": ROUTER, "addresses": SUBNET}, {"addresses": ["0.0.0.0"]}]
    found = _counts(rows, {"reason": "router", "mac": ROUTER, "addresses": 7}, key_fingerprint="0123456789ab")
    assert dict(found["counts"]) == {"MACs of routers in front of outside addresses": 1}
    assert found["behind"] == []


def test_name_devices__a_host_that_only_asks_for_a_lease_has_a_row_under_its_mac() -> None:
    mac = "02:00:00:00:00:05"
    ends = {"client_ip": "0.0.0.0", "client_mac": mac, "client_packets": 2, "server_ip": "255.255.255.255",
            "server_mac": "ff:ff:ff:ff:ff:ff", "server_packets": 0, "answered": False}  # fmt: skip
    found = name_devices(pa.Table.from_pylist([ends]), Site(Networks(["10.0.0.0/8"]), frozenset({ROUTER})))
    assert found.device.to_pylist() == [mac]
    assert found.address.to_pylist() == ["0.0.0.0"]


def test_page__names_hosts_without_a_row_and_packets_without_ip() -> None:
    text = text_of(page_of(census_of([{"device_id": ROUTER, "addresses": SUBNET}]), facts()))
    assert "Hosts without a row of their own addresses that share the row of a MAC 20" in text
    assert "67 packets without IP (ARP and the like) were not used" in text
    assert f"20 addresses behind {ROUTER}" in text
    assert "Hosts without a row" not in text_of(page_of(census_of([{}]), facts(packets={"flow": 1})))


def test_page__has_maker_and_whether_the_mac_is_locally_administered() -> None:
    rows = [{"maker": HOSTILE, "mac_randomised": False}, {"mac_randomised": True}, {}]
    page = page_of(census_of(rows), facts(makers="IEEE registry of 2026-10-24"))
    data = data_of(page)
    assert data["maker"] == {"names": [HOSTILE], "codes": [0, -1, -1]}
    assert data["mac_randomised"] == [False, True, None]
    assert page.count("<script") == 2
    assert "IEEE registry of 2026-10-24" in text_of(page)


def test_page__a_router_left_out_is_called_one() -> None:
    rows = left_out_of({"mac": ROUTER, "addresses": 7})
    text = text_of(page_of(census_of([{}]), facts(flows_without_device={"router": 7}), left_out=rows))
    assert f"{ROUTER} 7 addresses behind it, a router" in text
