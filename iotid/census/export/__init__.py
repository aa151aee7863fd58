"""A stored census in the formats that other systems read: CSV, JSON lines, NetBox's bulk import, Prometheus text."""

from __future__ import annotations

from iotid.census.export.step import Request, export

__all__ = ["Request", "export"]
