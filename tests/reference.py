"""The reference implementation of flow assembly: slow and obvious, packet by packet, and without code of the package.

Packets are rows of schemas.PACKETS, flows rows of schemas.FLOWS. A packet may have ``data``, too: its bytes as captured
from the IP header on, the addresses zeroed (`data_of`). Its TCP number is ``tcp_sequence`` or in these bytes, and its
header fields are ``header`` (`header_of`) or in these bytes.
That of reading captures is in capture/reference/.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

_LOCAL = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
                                        "fc00::/7", "fe80::/10")]  # fmt: skip
_MOVE_US = 60_000_000


def flows(
    packets: list[dict[str, Any]],
    paths: list[str],
    *,
    max_packets: int = 32,
    idle_timeout_s: float | None = None,
    active_timeout_s: float | None = None,
    tcp_close: bool = True,
    length: str = "ip",
    join_files: bool = True,
    keep_bytes: int = 0,
    keep_packets: int = 10,
    header_fields: bool = False,
) -> list[dict[str, Any]]:
    """Rows of schemas.FLOWS as stored, ordered by first packet, from rows of schemas.PACKETS in any order."""
    rank = {path: index for index, path in enumerate(paths)}
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for packet in sorted(packets, key=lambda p: (p["timestamp"], rank[p["capture_file"]], p["offset"])):
        ends = frozenset({_sender(packet), _receiver(packet)})
        file = None if join_files else packet["capture_file"]
        by_key.setdefault((file, packet["vlan"], packet["protocol"], ends), []).append(packet)
    found = []
    for of_key in by_key.values():
        flow: list[dict[str, Any]] = []
        for packet in of_key:
            reason = _cut(flow, packet, idle_timeout_s, active_timeout_s, tcp_close) if flow else None
            if reason:
                found.append((flow, reason))
                flow = []
            flow.append(packet)
        found.append((flow, "end"))
    found.sort(key=lambda item: (item[0][0]["timestamp"], rank[item[0][0]["capture_file"]], item[0][0]["offset"]))
    return [
        _flow_row(flow, reason, max_packets, length)
        | _header_columns(flow[:max_packets] if header_fields else [])
        | {"first_bytes": _first_bytes(flow, keep_packets, keep_bytes) if keep_bytes else None}
        for flow, reason in found
    ]


def data_of(packet: dict[str, Any]) -> bytes:
    """``data`` of a packet, read from its capture: pcap, or enhanced blocks of pcapng; Ethernet or cooked frames."""
    with Path(packet["capture_file"]).open("rb") as capture:
        header = 28 if capture.read(4) == b"\x0a\x0d\x0d\x0a" else 16
        capture.seek(packet["offset"] + header)
        frame = capture.read(packet["captured_length"])
    at = {1: 12, 113: 14}[packet["link_type"]]
    while frame[at : at + 2] == b"\x81\x00":
        at += 4
    data = bytearray(frame[at + 2 :][: packet["packet_length"]])
    addresses = slice(12, 20) if ip_address(packet["source_ip"]).version == 4 else slice(8, 40)
    data[addresses] = bytes(len(data[addresses]))
    return bytes(data)


def _first_bytes(flow: list[dict[str, Any]], keep_packets: int, keep_bytes: int) -> bytes:
    kept = [packet["data"][:keep_bytes].ljust(keep_bytes, b"\0") for packet in flow[:keep_packets]]
    return b"".join(kept).ljust(keep_packets * keep_bytes, b"\0")


def header_of(data: bytes) -> dict[str, Any]:
    """The header fields of a packet's bytes from its IP header on; None: it has no such field."""
    if data[0] >> 4 == 4:
        header = {"ttl": data[8], "dscp": data[1] // 4, "dont_fragment": data[6] // 64 % 2}
        header["identification"] = int.from_bytes(data[4:6])
        above = data[4 * (data[0] % 16) :]
        is_tcp = data[9] == 6 and int.from_bytes(data[6:8]) % 8192 == 0
    else:
        header = {"ttl": data[7], "dscp": int.from_bytes(data[:2]) % 4096 // 64, "dont_fragment": 1}
        header["identification"] = None
        above, is_tcp = data[40:], data[6] == 6
    options = above[20:] if is_tcp else b""
    return header | _options_of(options, 4 * (above[12] // 16) - 20 if options else 0)


def _options_of(captured: bytes, size: int) -> dict[str, Any]:
    """Of a list of ``size`` bytes, of which some may not be captured."""
    left, found, kinds = captured[: max(size, 0)], {}, []
    is_whole = len(left) == size
    while left:
        kinds.append(left[0])
        if left[0] == 0:
            break
        length = 1 if left[0] == 1 else left[1] if len(left) > 1 else 0
        if length == 0 or (length == 1 and left[0] != 1) or length > len(left):
            is_whole = False
            break
        found[left[0], length] = left[2:length]
        left = left[length:]
    digest = 2166136261
    for kind in kinds:
        digest = (digest ^ kind) * 16777619 % 2**32
    mss, scale, times = (found.get(key) for key in ((2, 4), (3, 3), (8, 10)))
    return {
        "options": (digest % 2**31 or 1) if kinds and is_whole else 0,
        "mss": int.from_bytes(mss) if mss else 0,
        "window_scale": scale[0] + 1 if scale else 0,
        "timestamp": int.from_bytes(times[:4]) if times else None,
    }


def _header_columns(head: list[dict[str, Any]]) -> dict[str, list[int]]:
    headers = [packet["header"] if "header" in packet else header_of(packet["data"]) for packet in head]
    columns = {name: [header[name] for header in headers] for name in ("ttl", "dscp", "dont_fragment")}
    columns |= {f"tcp_{name}": [header[name] for header in headers] for name in ("options", "mss", "window_scale")}
    steps, rates = [], []
    for number, (packet, header) in enumerate(zip(head, headers, strict=True)):
        own = [at for at in range(number) if _sender(head[at]) == _sender(packet)]
        steps.append(_step(headers[own[-1]]["identification"] if own else None, header["identification"], bool(own)))
        timed = [at for at in own if headers[at]["timestamp"] is not None]
        first = timed[0] if timed else number
        us = _us(packet["timestamp"]) - _us(head[first]["timestamp"])
        rates.append(_rate(headers[first]["timestamp"], header["timestamp"], us))
    return columns | {"ip_id_step": steps, "timestamp_rate": rates}


def _step(earlier: int | None, identification: int | None, has_earlier: bool) -> int:
    if identification is None or (has_earlier and earlier is None):
        return 0
    if earlier is None:
        return 1
    step = (identification - earlier) % 65536
    return 2 if step == 0 else 3 if step == 1 else 4 if step <= 9 else 5 if step <= 1000 else 6


def _rate(first: int | None, timestamp: int | None, us: int) -> int:
    if timestamp is None or first is None:
        return 0
    if us < 100_000:
        return 1
    ticks = (timestamp - first) % 2**32
    hertz = ticks * 1_000_000 / us if ticks < 2**31 else -1
    return next((number for number, most in ((2, 50), (3, 158), (4, 500), (5, 2000)) if hertz < most), 6)


def _sender(packet: dict[str, Any]) -> Any:
    return _end(packet, "source")


def _receiver(packet: dict[str, Any]) -> Any:
    return _end(packet, "destination")


def _end(packet: dict[str, Any], name: str) -> tuple[Any, int, str]:
    """Address and port, and the MAC, which tells hosts apart that have no address yet."""
    address = ip_address(packet[f"{name}_ip"])
    return address, packet[f"{name}_port"], (packet[f"{name}_mac"] or "") if address.is_unspecified else ""


def _flags(packet: dict[str, Any]) -> set[str]:
    if packet["protocol"] != 6:
        return set()
    names = {1: "FIN", 2: "SYN", 4: "RST", 16: "ACK"}
    return {name for bit, name in names.items() if packet["tcp_flags"] & bit}


def _opens(packet: dict[str, Any]) -> bool:
    return "SYN" in _flags(packet) and "ACK" not in _flags(packet)


def _answers(packet: dict[str, Any]) -> bool:
    return {"SYN", "ACK"} <= _flags(packet)


def _us(time: Any) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _cut(
    flow: list[dict[str, Any]],
    packet: dict[str, Any],
    idle_timeout_s: float | None,
    active_timeout_s: float | None,
    tcp_close: bool,
) -> str | None:
    now = _us(packet["timestamp"])
    if idle_timeout_s is not None and now - _us(flow[-1]["timestamp"]) > idle_timeout_s * 1e6:
        return "idle"
    if active_timeout_s is not None and now - _us(flow[0]["timestamp"]) > active_timeout_s * 1e6:
        return "active"
    if tcp_close and _opens(packet) and (_closed(flow) or _opens_anew(flow, packet)):
        return "closed"
    return "moved" if any(_moved(flow, packet, end) for end in (0, 1)) else None


def _closed(flow: list[dict[str, Any]]) -> bool:
    fins = {_sender(seen) for seen in flow if "FIN" in _flags(seen)}
    return len(fins) == 2 or any("RST" in _flags(seen) for seen in flow)


def _sequence(packet: dict[str, Any]) -> int | None:
    """TCP's sequence number, where it was captured."""
    if packet["protocol"] != 6:
        return None
    if "tcp_sequence" in packet or "data" not in packet:
        return packet.get("tcp_sequence")
    data = packet["data"]
    above = 4 * (data[0] & 15) if ip_address(packet["source_ip"]).version == 4 else 40
    return int.from_bytes(data[above + 4 : above + 8]) if len(data) >= above + 8 else None


def _opening(packet: dict[str, Any]) -> int:
    """The number of the SYN of the connection whose first packet this is: a SYN takes one number."""
    sequence = _sequence(packet)
    assert sequence is not None
    return sequence if "SYN" in _flags(packet) else (sequence - 1) % 2**32


def _opens_anew(flow: list[dict[str, Any]], syn: dict[str, Any]) -> bool:
    own = [seen for seen in flow if _sender(seen) == _sender(syn) and _sequence(seen) is not None]
    return bool(own) and _sequence(syn) != _opening(own[0])


def _macs_at(packet: dict[str, Any]) -> list[tuple[Any, str | None]]:
    """Of the lower end and of the higher: its endpoint and the MAC that the packet shows there."""
    ends = [(_sender(packet), packet["source_mac"]), (_receiver(packet), packet["destination_mac"])]
    return sorted(ends, key=lambda end: end[0])


def _moved(flow: list[dict[str, Any]], packet: dict[str, Any], end: int) -> bool:
    (address, *_), mac = _macs_at(packet)[end]
    shown = [(seen, _macs_at(seen)[end][1]) for seen in flow if _macs_at(seen)[end][1]]
    if not mac or not shown or not any(address in network for network in _LOCAL):
        return False
    silence_us = _us(packet["timestamp"]) - _us(shown[-1][0]["timestamp"])
    holders = {was for _, was in shown}
    return len(holders) == 1 and mac not in holders and silence_us > _MOVE_US


def _mac(sent: list[dict[str, Any]], received: list[dict[str, Any]]) -> str | None:
    """From which most packets were sent, the earliest of equals; else to which the first was sent."""
    senders = Counter(packet["source_mac"] for packet in sent if packet["source_mac"])
    if senders:
        return senders.most_common(1)[0][0]  # equals come in the order in which they were met
    return next((packet["destination_mac"] for packet in received if packet["destination_mac"]), None)


def _flow_row(flow: list[dict[str, Any]], reason: str, max_packets: int, length: str) -> dict[str, Any]:
    first = flow[0]
    client, server = _sender(first), _receiver(first)
    answer = next((packet for packet in flow if _answers(packet)), None)
    opening = next((packet for packet in flow if _opens(packet)), None)
    if opening:
        client, server = _sender(opening), _receiver(opening)
    elif answer:
        client, server = _receiver(answer), _sender(answer)
    up = [packet for packet in flow if _sender(packet) == client]
    down = [packet for packet in flow if _sender(packet) != client]
    is_shared = [
        len({packet["source_mac"] for packet in sent if packet["source_mac"]}) > 1
        and any(address in network for network in _LOCAL)
        for sent, (address, *_) in ((up, client), (down, server))
    ]
    head = flow[:max_packets]
    times = [_us(packet["timestamp"]) for packet in head]
    return {
        "capture_file": first["capture_file"],
        "protocol": first["protocol"],
        "vlan": first["vlan"],
        "client_ip": str(client[0]),
        "client_port": client[1],
        "server_ip": str(server[0]),
        "server_port": server[1],
        "client_mac": _mac(up, down),
        "server_mac": _mac(down, up),
        "address_conflict": any(is_shared),
        "first_seen": first["timestamp"],
        "last_seen": flow[-1]["timestamp"],
        "client_packets": len(up),
        "client_bytes": sum(packet["frame_length"] for packet in up),
        "server_packets": len(down),
        "answered": len(down) > sum("RST" in _flags(packet) for packet in down if packet in head),
        "server_bytes": sum(packet["frame_length"] for packet in down),
        "end_reason": reason,
        "packet_length": [packet["packet_length" if length == "ip" else "frame_length"] for packet in head],
        "tcp_window": [packet["tcp_window"] for packet in head],
        "direction": [1 if _sender(packet) == client else -1 for packet in head],
        "inter_arrival_us": [0] + [later - earlier for earlier, later in pairwise(times)],
        "tcp_flags": [packet["tcp_flags"] for packet in head],
        "payload_length": [packet["payload_length"] for packet in head],
    }
