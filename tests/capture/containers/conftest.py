"""Frames that tests of containers share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def frames(make: SimpleNamespace) -> list[bytes]:
    """Twelve packets, all different."""
    return [make.ethernet(make.ipv4(make.tcp(bytes(range(i)), window=i, ports=(1000 + i, 443)))) for i in range(12)]
