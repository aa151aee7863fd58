"""Settings, device lists, metadata, reports, models and checkpoints with random faults: read, or one short line.

`tests/fuzz/stored.py` says what must hold; `make fuzz` searches further with the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_EXAMPLES = int(os.environ.get("IOTID_FUZZ_EXAMPLES", "150"))
_TARGETS = {  # and how many cases of it take as long as one of metadata
    "settings": 5, "labels_yaml": 2, "labels_csv": 1, "metadata": 1, "report": 1, "description": 2, "weights": 5,
    "checkpoint": 1, "splits": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parent / "fuzz" / "stored.py")


def test_fuzz__every_target_is_tried(stored: ModuleType) -> None:
    assert set(stored.TARGETS) == set(_TARGETS)


@pytest.mark.parametrize("name", _TARGETS)
def test_fuzz__stored_content_is_read_or_refused_in_one_line(name: str, stored: ModuleType, tmp_path: Path) -> None:
    target = stored.TARGETS[name]
    seeds = target.seeds()
    assert any(stored.check(name, seed, tmp_path) for seed in seeds)
    for number in range(2 * _EXAMPLES // _TARGETS[name]):
        dice = random.Random(number)
        content = dice.choice(seeds)
        for _ in range(dice.choice([1, 1, 2])):
            content = target.mutate(content, dice)
        stored.check(name, content, tmp_path)
