"""Ranks on one machine use its loopback interface, whatever its name."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from iotid.config import load_settings
from iotid.training import launch


@pytest.mark.parametrize(
    ("interfaces", "loopback"),
    [([(1, "lo"), (2, "eth0")], "lo"), ([(4, "en0"), (1, "lo0"), (9, "utun3")], "lo0"), ([(1, "en0")], None)],
)
def test_ranks__of_one_machine_use_loopback_on_linux_and_macos(
    interfaces: list[Any], loopback: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: interfaces)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    training = load_settings().training
    assert launch.rank_environment(training, local=True).get("GLOO_SOCKET_IFNAME") == loopback
    assert "GLOO_SOCKET_IFNAME" not in launch.rank_environment(training, local=False)
