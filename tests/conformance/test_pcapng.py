"""The pcapng suite: as many packets as the text beside each file counts blocks, the same in both byte orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import counters, read_packets

pytestmark = pytest.mark.captures

_PACKET_BLOCKS = ("EPB", "SPB", "PB")  # enhanced, simple and obsolete


def test_pcapng__every_packet_block_is_read_and_nothing_else_counted(
    suite: Path, capture_settings: config.Capture, judge: Any
) -> None:
    folder = suite / "pcapng"
    outcomes: dict[str, str | None] = {}
    for path in sorted(folder.glob("output_*/*/*.pcapng")):
        expected = sum(_block_counts(path.with_suffix(".txt")).get(kind, 0) for kind in _PACKET_BLOCKS)
        table = read_packets(str(path), settings=capture_settings)
        counted = {row["reason"]: row["packets"] for row in counters(table).to_pylist()}
        ours = {"flow": expected} if expected else {}  # all of the suite's packets are IP, and none is broken
        same = counted == ours and len(table) == expected
        outcomes[str(path.relative_to(folder))] = (
            None if same else f"iotid {counted}, expected {expected} packet blocks"
        )
    judge("pcapng", outcomes)


def test_pcapng__both_byte_orders_give_the_same_packets(suite: Path, capture_settings: config.Capture) -> None:
    little = sorted((suite / "pcapng" / "output_le").glob("*/*.pcapng"))
    assert little
    for path in little:
        big_endian = suite / "pcapng" / "output_be" / path.parent.name / path.name
        tables = [
            read_packets(str(each), settings=capture_settings).drop(["capture_file"]) for each in (path, big_endian)
        ]
        assert tables[0].equals(tables[1]), path.name


def _block_counts(path: Path) -> dict[str, int]:
    """Of the lines `\\tKIND: number` after "Block counts:"."""
    lines = path.read_text().split("Block counts:")[1].split("\n\n")[0].split("\n")
    return {kind.strip(): int(number) for kind, _, number in (line.partition(":") for line in lines if ":" in line)}
