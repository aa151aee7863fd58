"""NFStream's flows, live: endpoints, packets and bytes of each direction, senders and lengths of the first packets."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import read_packets
from iotid.flows import from_captures

pytestmark = pytest.mark.captures

_HERE = Path(__file__).parent
_PYTHON = _HERE.parents[1] / ".venv-peers" / "bin" / "python"
_FIRST = 32

Endpoint = tuple[str, int]
# protocol, VLAN (0: none), each side with packets and bytes, then of the first packets the sender and the length;
# the sides in no order, since NFStream calls the first sender the source and iotid the one that opened the client
Flow = tuple[int, int, tuple[tuple[Endpoint, int, int], ...], tuple[tuple[Endpoint, int], ...]]


def test_nfstream__flows_have_its_endpoints_counts_and_first_lengths(
    captures: Path, capture_settings: config.Capture, judge: Any
) -> None:
    if not _PYTHON.exists():
        pytest.skip("NFStream is not installed: make peers-setup")
    paths = _sample(captures)
    # NFStream drops all fragments but the first
    settings = capture_settings.model_copy(update={"fragment_records": 0})
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(_nfstream, paths)
        ours = _iotid(paths, settings)
        expected = answer.result()
    judge(
        "nfstream", {str(Path(path).relative_to(captures)): _difference(ours[path], expected[path]) for path in paths}
    )


def _sample(captures: Path) -> list[str]:
    """Every 2nd of aalto, every 4th of lsif, all of nDPI's."""
    ndpi = [path for path in (captures / "conformance" / "ndpi").iterdir() if path.suffix != ".out"]
    real = sorted((captures / "aalto").rglob("*.pcap"))[::2] + sorted((captures / "lsif").rglob("*.pcap"))[::4]
    return [str(path) for path in sorted(ndpi) + real]


def _nfstream(paths: list[str]) -> dict[str, Counter[Flow]]:
    script = _HERE / "peers" / "nfstream_flows.py"
    ran = subprocess.run(
        [str(_PYTHON), str(script)], input="\n".join(paths), capture_output=True, text=True, timeout=300, check=True
    )
    expected: dict[str, Counter[Flow]] = {}
    for line in ran.stdout.splitlines():
        path, flows = json.loads(line)
        expected[path] = Counter(_expected(*flow) for flow in flows)
    return expected


def _expected(
    protocol: int, vlan: int, source: str, source_port: int, destination: str, destination_port: int, *counts: Any
) -> Flow:
    packets, num_bytes, packets_back, bytes_back, senders, lengths = counts
    sides = (str(ip_address(source)), source_port), (str(ip_address(destination)), destination_port)
    counted = (sides[0], packets, num_bytes), (sides[1], packets_back, bytes_back)
    return protocol, vlan, tuple(sorted(counted)), tuple((sides[s], n) for s, n in zip(senders, lengths, strict=True))


def _iotid(paths: list[str], settings: config.Capture) -> dict[str, Counter[Flow]]:
    flows = from_captures(
        paths, max_packets=_FIRST, tcp_close=False, length="frame", join_files=False, capture=settings
    )
    in_file_order = _sequences(paths, settings)
    ours: dict[str, Counter[Flow]] = {path: Counter() for path in paths}
    for row in flows.to_pylist():
        path, protocol, vlan = row["capture_file"], row["protocol"], row["vlan"] or 0
        client, server = ((row[f"{side}_ip"], row[f"{side}_port"]) for side in ("client", "server"))
        sequence = tuple(
            (client if direction == 1 else server, length)
            for direction, length in zip(row["direction"], row["packet_length"], strict=True)
        )
        # NFStream takes packets in the order of the file, iotid by time
        sequence = in_file_order.get((path, protocol, vlan, tuple(sorted((client, server)))), sequence)
        counted = (
            (client, row["client_packets"], row["client_bytes"]),
            (server, row["server_packets"], row["server_bytes"]),
        )
        ours[path][protocol, vlan, tuple(sorted(counted)), sequence] += 1
    return ours


def _sequences(paths: list[str], settings: config.Capture) -> dict[Any, tuple[tuple[Endpoint, int], ...]]:
    """Senders and lengths in the order of the file, of the flows whose packets are not there in order of time."""
    columns = [
        "capture_file", "protocol", "vlan", "source_ip", "source_port", "destination_ip", "destination_port",
        "frame_length", "timestamp",
    ]  # fmt: skip
    packets: dict[Any, list[tuple[Any, Endpoint, int]]] = defaultdict(list)
    table = read_packets(paths, settings=settings).select(columns)
    for path, protocol, vlan, *ends, length, time in zip(*(table[name].to_pylist() for name in columns), strict=True):
        source, destination = (ends[0], ends[1]), (ends[2], ends[3])
        packets[path, protocol, vlan or 0, tuple(sorted((source, destination)))].append((time, source, length))
    return {
        key: tuple((source, length) for _, source, length in of_key[:_FIRST])
        for key, of_key in packets.items()
        if any(later[0] < earlier[0] for earlier, later in pairwise(of_key))
    }


def _difference(ours: Counter[Flow], expected: Counter[Flow]) -> str | None:
    if ours == expected:
        return None
    here, there = sorted((ours - expected).elements()), sorted((expected - ours).elements())
    return f"{len(here)} flows only iotid has, as {here[:1]}; {len(there)} only NFStream has, as {there[:1]}"
