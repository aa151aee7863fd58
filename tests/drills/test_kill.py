"""A killed ingest leaves complete partitions or none; the next run writes the others. See also `make drill-kill`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.spark
def test_ingest__killed_at_random_leaves_no_incomplete_partition(
    module_at: Callable[[Path], ModuleType],
) -> None:
    kill = module_at(Path(__file__).with_name("kill.py"))
    found = kill.run(moments=2, seed=int.from_bytes(os.urandom(4)))
    assert found["faults"] == [], found
