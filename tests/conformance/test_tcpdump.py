"""What tcpdump prints of TCP: ports, flags and the raw window of each segment, in the order of the capture.

Many captures of this suite are fuzzers' finds or are cut off; where tcpdump sees no segment, iotid must see none.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import read_packets

pytestmark = pytest.mark.captures

# a port follows its address and a dot; after IPv6's extension headers it is alone
_SEGMENT = re.compile(r"(\d+) > (?:\S+\.)?(\d+): Flags \[([^]]*)\],.*? win (\d+)")
_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128, "e": 0}  # e: AE, a bit of its own


Segment = tuple[int, int, int, int]  # source's and destination's port, flags, window

_COLUMNS = ["protocol", "source_port", "destination_port", "tcp_flags", "tcp_window"]


def test_tcpdump__segments_have_the_printed_windows_and_flags(
    suite: Path, capture_settings: config.Capture, judge: Any
) -> None:
    folder = suite / "tcpdump"
    outcomes: dict[str, str | None] = {}
    for name, capture, output in _tests(folder):
        expected = _read(folder / output)
        packets = read_packets(str(folder / capture), settings=capture_settings).select(_COLUMNS).to_pylist()
        ours = [tuple(row.values())[1:] for row in packets if row["protocol"] == 6]
        outcomes[name] = None if ours == expected else f"iotid {ours}, tcpdump {expected}"
    judge("tcpdump", outcomes)


def _tests(folder: Path) -> list[tuple[str, str, str]]:
    """Name, capture and output of the tests that are here and whose output shows every packet and window."""
    found = []
    for line in (folder / "TESTLIST").read_text().splitlines():
        words = shlex.split(line, comments=True)
        if len(words) < 3 or not all((folder / word).is_file() for word in words[1:3]):
            continue
        # a filter, a choice of packets, or a short form without windows
        if not any(re.match(r"--$|--skip|--print-sampling|-c|-q", option) for option in words[3:]):
            found.append((words[0], words[1], words[2]))
    return found


def _read(path: Path) -> list[Segment]:
    segments = []
    for line in path.read_text(errors="replace").splitlines():
        for source, destination, letters, window in _SEGMENT.findall(line):
            flags = 0 if letters == "none" else sum(_BITS[letter] for letter in letters)
            segments.append((int(source), int(destination), flags, int(window)))
    return segments
