"""One task's splits, read into partial flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iotid import config
from iotid.capture import find_captures
from iotid.capture.counters import Counters
from iotid.flows.read import TaskSplits, read_partials


def test_read_partials__are_handed_out_before_they_take_much_more_than_a_chunk(
    tmp_path: Path, random_rows: Any, write_pcap: Any
) -> None:
    rows = [row for row in random_rows(3, 400, ["a"]) if ":" not in row["source_ip"]]
    rows = [row | {"source_port": number} for number, row in enumerate(rows)]  # each a flow of its own
    write_pcap(tmp_path / "a.pcap", rows)
    settings = config.load_settings()
    (split,) = find_captures([str(tmp_path / "a.pcap")]).captures
    task = TaskSplits([split], None)
    counts = {}
    for chunk_bytes in (4096, 1 << 26):
        capture = settings.capture.model_copy(update={"chunk_bytes": chunk_bytes})
        parts = list(read_partials(task, 0, capture, settings.flow, Counters()))
        counts[chunk_bytes] = len(parts)
        assert sum(int(part.packets.sum()) for part in parts) == len(rows)
    assert counts[4096] > 4
    assert counts[1 << 26] == 1
