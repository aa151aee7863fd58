"""Packets in, flows out: one row per bidirectional flow, the same rows however the captures were cut and dealt out.

Doors: `from_captures` (one machine, no Spark), `write_flows` and `read_flows` (the night's partition, on Spark),
`read_counters` (what became of every packet of a night), and for workers `night_files` and `later_flows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.flows.assemble import write_flows
    from iotid.flows.local import from_captures
    from iotid.flows.nights import (
        QUARANTINE_FILE,
        TOLD_BY,
        NightFile,
        later_flows,
        night_files,
        read_counters,
        read_flows,
    )

__all__ = [
    "QUARANTINE_FILE", "TOLD_BY", "NightFile", "from_captures", "later_flows", "night_files", "read_counters",
    "read_flows", "write_flows",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a door when it is first asked for: the kernels behind it bring Numba in."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = {"from_captures": "local", "write_flows": "assemble"}.get(name, "nights")
    return getattr(import_module(f"{__name__}.{home}"), name)
