"""The toy problem of rank_process.py, which other processes run too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def toy(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).with_name("rank_process.py"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Toy layers gain nothing from threads, and slow down on busy cores."""
    torch.set_num_threads(1)
