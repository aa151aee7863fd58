"""Prints an inventory: as tables for a terminal, as CSV or as JSON. All names are untrusted."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from iotid.capture.counters import FLOW, REASONS, counters
from iotid.census.identify import UNLIKE, names_of_kinds, percents
from iotid.cli.command import print_lines
from iotid.cli.output import format_counts
from iotid.cli.text_table import TextColumn, lay_out
from iotid.messages import one_line
from iotid.model.device.decide import UNDECIDED, UNKNOWN, WITH_UNKNOWN

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.census.champion import FoundModel
    from iotid.census.inventory import Inventory

_JSON_VERSION = 1
_UNITS = ("B", "kB", "MB", "GB", "TB")


def print_inventory(inventory: Inventory, flows: pa.Table, found: FoundModel, style: str) -> None:
    """Print the inventory of ``flows`` (as `flows.from_captures` returns them) to stdout.

    ``style``: table, csv or json. A table is as wide as the terminal; if stdout is none, as wide as its text, unless
    COLUMNS is set.
    """
    packets = _packets(flows)
    if style == "json":
        click.echo(json.dumps(_as_json(inventory, packets, found), indent=1, default=_iso))
    elif style == "csv":
        from iotid.census.report import render_csv

        devices = inventory.devices.append_column("services", [[", ".join(each) for each in inventory.services]])
        text = render_csv(devices)
        if sys.stdout.isatty():
            print_lines(*text.splitlines())
        else:
            click.echo(text, nl=False)
    else:
        width = shutil.get_terminal_size((0, 0)).columns
        for title, lines in _tables(inventory, packets, found, width):
            click.secho(one_line(title), bold=True)
            print_lines(*lines)


def _packets(flows: pa.Table) -> dict[str, int]:
    """Packets by reason, those in flows first."""
    counted: Counter[str] = Counter({REASONS[FLOW]: 0})
    for row in counters(flows).to_pylist():
        counted[row["reason"]] += row["packets"]
    return dict(counted)


def _as_json(inventory: Inventory, packets: Mapping[str, int], found: FoundModel) -> dict[str, Any]:
    devices = inventory.devices.to_pylist()
    return {
        "version": _JSON_VERSION,
        "model": found.title if found.predictor else None,
        "devices": [row | {"services": own} for row, own in zip(devices, inventory.services, strict=True)],
        "groups": inventory.groups.to_pylist(),
        "left_out": inventory.left_out.to_pylist(),
        "packets": dict(packets),
    }


def _iso(value: Any) -> str:
    return str(value.isoformat())


def _tables(
    inventory: Inventory, packets: Mapping[str, int], found: FoundModel, width: int
) -> Iterator[tuple[str, list[str]]]:
    """Title and lines of each part."""
    devices = inventory.devices.to_pylist()
    statuses = Counter(row["status"].replace("_", " ") for row in devices)
    made = f"by {found.title}" if found.predictor else "without a model"
    hint = [] if found.predictor else [f"No model: {found.title}."]
    yield f"{len(devices):,} devices, {made}: {format_counts(statuses) or 'none'}", hint
    if devices:
        lines, left_out = lay_out(_device_columns(inventory), width)
        if left_out:
            lines.append(f"Too narrow for: {', '.join(left_out).lower()}. --format csv has all.")
        yield "", lines
    if inventory.groups.num_rows:
        lines, _ = lay_out(_group_columns(inventory), width)
        yield "", []
        yield f"{inventory.groups.num_rows:,} groups of unknown devices with similar traffic", lines
    yield "", []
    yield "Counted", [*_left_out(inventory.left_out), _packet_line(packets)]


def _device_columns(inventory: Inventory) -> list[TextColumn]:
    """One row for each device, those with most flows first."""
    rows = inventory.devices.append_column("services", [inventory.services]).to_pylist()
    rows.sort(key=lambda row: (-row["flows"], row["device_id"]))
    kinds = _kinds_found(inventory.devices)
    return [
        TextColumn("DEVICE", [row["device_id"] for row in rows]),
        TextColumn("ADDRESS", [_address(row) for row in rows], 4),
        TextColumn("MAKER", [row["maker"] or "" for row in rows], 5, wraps=True),
        TextColumn("WHAT IT IS", [_answer(row, kinds[row["device_id"]]) for row in rows], wraps=True),
        TextColumn("FLOWS", [f"{row['flows']:,}" for row in rows], 1, is_number=True),
        TextColumn("BYTES", [format_size(row["bytes"]) for row in rows], 2, is_number=True),
        TextColumn("FIRST SEEN", [_time(row["first_seen"]) for row in rows], 6),
        TextColumn("LAST SEEN", [_time(row["last_seen"]) for row in rows], 3),
        TextColumn("SERVICES", [", ".join(row["services"]) for row in rows], 7, wraps=True),
    ]


def _group_columns(inventory: Inventory) -> list[TextColumn]:
    """One row for each group, the largest first."""
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in inventory.devices.to_pylist():
        if row["group_name"] is not None:
            members[row["group_name"]].append(row)
    profiles = {row["group_name"]: row for row in inventory.groups.to_pylist()}
    names = sorted(members, key=lambda name: (-len(members[name]), name))
    makers = [Counter(row["maker"] for row in members[name] if row["maker"]) for name in names]
    services = [profiles[name]["services"] if name in profiles else [] for name in names]
    columns = [
        TextColumn("GROUP", names),
        TextColumn("DEVICES", [f"{len(members[name]):,}" for name in names], is_number=True),
        TextColumn("FLOWS", [f"{sum(row['flows'] for row in members[name]):,}" for name in names], 1, is_number=True),
        TextColumn("MAKERS", [", ".join(name for name, _ in each.most_common()) for each in makers], 3, wraps=True),
        TextColumn("SERVICES", [", ".join(each) for each in services], 2, wraps=True),
    ]
    rhythm = [_rhythm(profiles.get(name, {})) for name in names]
    return columns + ([TextColumn("RHYTHM", rhythm, 4, wraps=True)] if any(rhythm) else [])


def _rhythm(group: Mapping[str, Any]) -> str:
    if group.get("flows_per_hour") is None or group.get("active_hours") is None:
        return ""
    return f"{group['flows_per_hour']:,.0f} flows/h in {group['active_hours']:.0f} h of the day"


def _kinds_found(devices: pa.Table) -> dict[str, list[str]]:
    """Device -> the kinds found, as "name 97 %"."""
    kinds = devices["kinds"].combine_chunks()
    found = kinds.flatten()
    shares = percents(found.field("confidence").to_numpy(zero_copy_only=False))
    texts = iter(f"{name} {share}" for name, share in zip(names_of_kinds(found).to_pylist(), shares, strict=True))
    rows = zip(devices["device_id"].to_pylist(), kinds.to_pylist(), strict=True)
    return {device: [next(texts) for _ in of_device] for device, of_device in rows}


def _answer(row: Mapping[str, Any], kinds: list[str]) -> str:
    """The kinds found with their probabilities, and whether it is unlike its kind; of an unknown device, its group."""
    if row["status"] == UNKNOWN:
        return ", most like ".join([f"unknown, group {row['group_name']}", *row["similar_kinds"][:1]])
    if row["status"] == UNDECIDED:
        nearest = row["runners_up"][:1]
        likeliest = [f"{one['label']} {percents(np.array([one['confidence']]))[0]}" for one in nearest]
        return ", likeliest ".join(["undecided", *likeliest])
    p_value = row["unlike_kind"]
    unlike = [f"unlike its kind (p {p_value:.2g})"] if p_value is not None and p_value <= UNLIKE else []
    return "; ".join([*kinds, *["an unknown device"] * (row["status"] == WITH_UNKNOWN), *unlike])


def _address(row: Mapping[str, Any]) -> str:
    others = [address for address in row["addresses"] if address != row["device_id"]]
    return " +".join([*others[:1], *[str(len(others) - 1)] * (len(others) > 1)])


def format_size(num_bytes: int) -> str:
    size, unit = float(num_bytes), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{num_bytes} B"


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _left_out(left_out: pa.Table) -> Iterator[str]:
    flows: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for row in left_out.to_pylist():
        flows[row["reason"]] += row["flows"]
        ends[row["reason"]] += row["ends"]
    for reason, count in flows.items():
        yield f"flows left out, {reason.replace('_', ' ')}: {count:,}, of {ends[reason]:,} MACs or addresses"
    if not flows:
        yield "flows left out: none"


def _packet_line(packets: Mapping[str, int]) -> str:
    others = {reason.replace("_", " "): count for reason, count in packets.items() if reason != REASONS[FLOW]}
    in_flows = packets[REASONS[FLOW]]
    return f"packets: {in_flows:,} in flows; in no flow: {format_counts(others) or 'none'}"
