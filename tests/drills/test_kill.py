"""A killed ingest leaves whole partitions or none, and the next run makes the rest; `make drill-kill` does more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.spark
def test_ingest__killed_at_a_random_moment_leaves_no_half_partition(module_at: Callable[[Path], ModuleType]) -> None:
    kill = module_at(Path(__file__).with_name("kill.py"))
    found = kill.run(moments=2, seed=int.from_bytes(os.urandom(4)))
    assert found["faults"] == [], found
