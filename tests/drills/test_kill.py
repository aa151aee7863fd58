"""A killed ingest leaves whole partitions or none, and the next run makes the rest; `make drill-kill` does more."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.mark.spark
def test_ingest__killed_at_a_random_moment_leaves_no_half_partition() -> None:
    spec = importlib.util.spec_from_file_location("kill", Path(__file__).with_name("kill.py"))
    assert spec is not None
    assert spec.loader is not None
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    found = kill.run(moments=2, seed=int.from_bytes(os.urandom(4)))
    assert found["faults"] == [], found
