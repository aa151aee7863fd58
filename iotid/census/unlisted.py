"""Hosts that have no row of their own in a census, counted with the reason. Pure functions on tables.

* Left out with their flows (LEFT_OUT): outside addresses, with or without a router's MAC in front of them; addresses
  that no single host has; hosts that were asked and did not answer.
* Behind one MAC: a MAC with many IPv4 addresses forwards for a routed subnet, whose hosts share its row.
* A host that has no address yet (DHCP alone) has a row, under its MAC, with the unspecified address.
* A host that sends nothing but ARP is in no flow. Its packets are counted with those that carry no IP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.changes import present
from iotid.labels.hosts import NO_HOST, OUTSIDE, ROUTER, UNANSWERED, UNSPECIFIED

MOST_OWN_ADDRESSES = 2  # IPv4 addresses of one host on one date: its lease may have changed
_LISTED = 10
_NO_IP = "not_ip"  # counters' reason of ARP and other protocols without IP


def hosts_without_row(census: pa.Table, left_out: pa.Table, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says about hosts that have no row, or share one.

    ``counts``: (what, number), without zeros. ``behind``: MACs of rows with more than MOST_OWN_ADDRESSES IPv4
    addresses, and their number, the most first. With pseudonyms the numbers of addresses are not known, and left out.
    """
    is_clear = not metadata["key_fingerprint"]
    ends = {reason: _sum_of(left_out, reason, "ends") for reason in (ROUTER, OUTSIDE, NO_HOST, UNANSWERED)}
    behind = _many_addresses(census) if is_clear else []
    counts = {
        "outside addresses behind a router's MAC": _sum_of(left_out, ROUTER, "addresses") if is_clear else 0,
        "MACs of routers in front of outside addresses": ends[ROUTER],
        "outside addresses, no MAC shown": ends[OUTSIDE],
        "addresses that no single host has, no MAC shown": ends[NO_HOST],
        "asked and did not answer": ends[UNANSWERED],
        "addresses that share the row of a MAC": sum(number for _, number in behind),
        "without an address: DHCP or the like alone (in the table, under their MACs)": (
            _count_without_address(census) if is_clear else 0
        ),
    }
    return {
        "counts": [(what, number) for what, number in counts.items() if number],
        "behind": [{"mac": mac, "addresses": number} for mac, number in behind[:_LISTED]],
        "packets_without_ip": metadata["packets"].get(_NO_IP, 0),
    }


def _sum_of(left_out: pa.Table, reason: str, column: str) -> int:
    return pc.sum(left_out.filter(pc.equal(left_out["reason"], reason))[column]).as_py() or 0


def _many_addresses(census: pa.Table) -> list[tuple[str, int]]:
    """(device_id, number of IPv4 addresses) of present rows with more than MOST_OWN_ADDRESSES, the most first."""
    rows = present(census)
    row_A, address_A = _rows_and_addresses(rows)
    is_ipv4_A = pc.match_substring(address_A, ".").to_numpy(zero_copy_only=False)
    is_ipv4_A &= ~pc.is_in(address_A, value_set=pa.array(UNSPECIFIED)).to_numpy(zero_copy_only=False)
    number_N = np.bincount(row_A[is_ipv4_A], minlength=len(rows))
    many = np.flatnonzero(number_N > MOST_OWN_ADDRESSES)
    names = rows["device_id"].take(pa.array(many)).to_pylist()
    return sorted(zip(names, number_N[many].tolist(), strict=True), key=lambda each: (-each[1], each[0]))


def _count_without_address(census: pa.Table) -> int:
    """Present rows all of whose addresses are unspecified."""
    rows = present(census)
    row_A, address_A = _rows_and_addresses(rows)
    is_address_A = ~pc.is_in(address_A, value_set=pa.array(UNSPECIFIED)).to_numpy(zero_copy_only=False)
    has_any_N = np.bincount(row_A, minlength=len(rows)) > 0
    return int((has_any_N & (np.bincount(row_A[is_address_A], minlength=len(rows)) == 0)).sum())


def _rows_and_addresses(census: pa.Table) -> tuple[np.ndarray, pa.Array]:
    """(A,) row of each address, and the address."""
    lists = one_chunk(census["addresses"])
    return pc.list_parent_indices(lists).to_numpy().astype(np.int64), lists.flatten()
