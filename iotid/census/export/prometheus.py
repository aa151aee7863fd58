"""Totals of a census in Prometheus' text format, version 0.0.4, for node_exporter's textfile collector.

Every metric is a gauge. A census has a timestamp and no age, so that a repeated export gives the same text; the age is
``time() - iotid_census_capture_date_timestamp_seconds``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.changes import present
from iotid.messages import one_line

Labels = Mapping[str, str]
Sample = tuple[Labels, float | None]
_LEVELS = ("type", "vendor")
_MEANINGS = {
    "found": "addresses where it was found",
    "expected": "expected number of addresses that have it, the sum of their probabilities",
}


def census_metrics(
    census: pa.Table, totals: pa.Table, metadata: Mapping[str, Any], key: Mapping[str, str]
) -> Iterator[str]:
    """Lines of the metrics of one census.

    ``totals``: TOTALS; ``metadata``: of its partition, of which earlier versions lack marks and groups; ``key``: its
    site and capture date.
    """
    here, capture_date = {"site": key["site"]}, key["capture_date"]
    midnight = datetime.fromisoformat(capture_date).replace(tzinfo=UTC).timestamp()
    last = pc.max(present(census)["last_seen"]).as_py()
    metrics: dict[str, tuple[str, Iterable[Sample]]] = {
        "capture_date_timestamp_seconds": ("Start of the census's capture date, UTC.", [(here, midnight)]),
        "last_packet_timestamp_seconds": (
            "Last packet of the census's devices.",
            [(here, last.timestamp() if last else None)],
        ),
        "addresses": ("Addresses of the capture date, by status.", _by("status", metadata["status"], here)),
        "changes": ("Addresses by their change since the census before.", _by("change", metadata["changes"], here)),
        "marked_addresses": ("Addresses with a mark.", _by("mark", metadata.get("marks", {}), here)),
        "watched_addresses": ("Addresses on the watch list.", [(here, metadata["watched"])]),
        "unknown_groups": ("Groups of unknown devices.", [(here, metadata.get("groups"))]),
        "flows_left_out": (
            "Flows that belong to no address, by reason.",
            _by("reason", metadata["flows_without_device"], here),
        ),
    }
    for level in _LEVELS:
        rows = totals.filter(pc.equal(totals["level"], level)).sort_by("item").to_pylist()
        for what, meaning in _MEANINGS.items():
            of_level = [({**here, level: row["item"]}, row[what]) for row in rows]
            metrics[f"{level}_{what}"] = (f"By {level}: {meaning}.", of_level)
    for name, (meaning, samples) in metrics.items():
        yield from _metric(f"iotid_census_{name}", meaning, samples)


def network_metrics(totals: pa.Table, network: str, capture_date: str) -> Iterator[str]:
    """Lines of the metrics of one network.

    ``totals``: rows with level, item, found, expected, low, high and site; without a site they are of all sites.
    """
    midnight = datetime.fromisoformat(capture_date).replace(tzinfo=UTC).timestamp()
    name = "iotid_network_capture_date_timestamp_seconds"
    yield from _metric(name, "Start of the capture date, UTC.", [({"network": network}, midnight)])
    rows = sorted(totals.to_pylist(), key=lambda row: (row["site"] or "", row["level"], row["item"]))
    for prefix, scope, is_own in (("iotid_network", "in all sites", False), ("iotid_network_site", "by site", True)):
        for what in ("found", "expected", "low", "high"):
            samples = [
                (
                    {
                        "network": network,
                        **({"site": row["site"]} if is_own else {}),
                        "level": row["level"],
                        "item": row["item"],
                    },
                    row[what],
                )
                for row in rows
                if (row["site"] is not None) == is_own
            ]
            yield from _metric(f"{prefix}_{what}", f"Addresses {scope}, by level and item: {what}.", samples)


def _metric(name: str, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    """HELP and TYPE, then a line for each sample that has a value; nothing without samples."""
    lines = [f"{name}{{{_labels(labels)}}} {_number(value)}\n" for labels, value in samples if value is not None]
    if lines:
        yield f"# HELP {name} {meaning}\n"
        yield f"# TYPE {name} gauge\n"
        yield from lines


def _labels(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    """A label's value: backslash, quote and line end are escaped by the format's rule, other control characters as by
    `messages.one_line`."""
    return "\\n".join(one_line(line).replace("\\", "\\\\").replace('"', '\\"') for line in value.split("\n"))


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)


def _by(label: str, counts: Mapping[str, int], labels: Labels) -> list[Sample]:
    return [({**labels, label: name}, count) for name, count in counts.items()]
