"""Checkpoints with any field or tensor damaged: training starts from scratch, with a one-line warning."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from iotid.training import fit as fit_module
from iotid.training.checkpoint import Checkpoint
from iotid.training.fit import fit

_TENSORS = "epoch-00001-0000000.safetensors"
_Load = Callable[..., bool]


@pytest.fixture(scope="module")
def stored(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "fuzz" / "stored.py")


def _fit(toy: ModuleType, folder: Path) -> Any:
    return fit(toy.MODEL, toy.training(epochs=1), toy.ENCODING, toy.rows(60), toy.rows(23, 9), folder)


@pytest.fixture(scope="module")
def kept(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Any]:
    """The checkpoint of a real run, and the arguments with which a resumed run loads it."""
    folder, asked = tmp_path_factory.mktemp("run"), []
    _fit(toy, folder)
    with pytest.MonkeyPatch.context() as patch:
        load = Checkpoint.load
        patch.setattr(fit_module.Checkpoint, "load", lambda *given: asked.append(given) or load(*given))
        assert _fit(toy, folder).resumed_from == 1
    ((place, fingerprint, specs),) = asked
    return place, fingerprint, specs


@pytest.fixture
def goes_on(kept: tuple[Path, str, Any], stored: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> _Load:
    """Whether training would resume from the checkpoint with these tensors or this description instead."""
    place, fingerprint, specs = kept
    folder = tmp_path / "checkpoint"
    shutil.copytree(place, folder)

    def load(tensors: dict[str, Any] | bytes | None = None, description: Any = None) -> bool:
        if tensors is not None:
            content = tensors if isinstance(tensors, bytes) else stored.packed(tensors)
            (folder / _TENSORS).write_bytes(content)
        if description is not None:
            text = description if isinstance(description, bytes) else json.dumps(description).encode()
            (folder / "checkpoint.json").write_bytes(text)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "iotid"):
            found = Checkpoint.load(folder, fingerprint, specs)
        for record in caplog.records:
            assert "starts from scratch" in record.getMessage()
            assert record.getMessage().isprintable()
            assert len(record.getMessage()) < 1000
        assert len(caplog.records) == (found.epoch == 0)
        assert bool(found.tensors) == (found.epoch == 1)
        return found.epoch == 1

    return load


@pytest.fixture
def named(kept: tuple[Path, str, Any], stored: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = stored.arrays((kept[0] / _TENSORS).read_bytes())
    return found


def test_load__requires_every_saved_tensor(kept: tuple[Path, str, Any], named: dict[str, Any], goes_on: _Load) -> None:
    assert set(named) == set(kept[2])
    assert {name.partition(".")[0] for name in named} == {"model", "best", "adam"}
    assert goes_on(named)


@pytest.mark.parametrize("damage", ["nan", "inf", "cut", "missing", "type", "shape", "negative square", "byte"])
def test_load__damaged_tensor_starts_from_scratch(
    damage: str, named: dict[str, Any], goes_on: _Load, stored: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    for name, array in named.items():
        others, changed = {key: each for key, each in named.items() if key != name}, array.copy()
        if damage in ("nan", "inf", "negative square"):
            if damage == "negative square" and not name.endswith("exp_avg_sq"):
                continue
            changed.flat[-1] = {"nan": np.nan, "inf": np.inf}.get(damage, -1)
        elif damage == "cut":
            if not array.ndim:
                continue
            changed = array[:-1]
        elif damage == "type":
            changed = array.astype(np.float64)
        elif damage == "shape":
            changed = array[np.newaxis]
        content = stored.packed(others if damage == "missing" else {**others, name: changed})
        assert not goes_on(content[:-1] if damage == "byte" else content), name
        assert name in caplog.text


def test_load__damaged_field_starts_from_scratch(kept: tuple[Path, str, Any], goes_on: _Load) -> None:
    stored = json.loads((kept[0] / "checkpoint.json").read_text())
    assert goes_on(description=stored)
    for name, value in stored.items():
        assert not goes_on(description={key: each for key, each in stored.items() if key != name}), name
        for odd in (None, [[1]], {"x": 1}, "x" * 10**5, -1, 10**40, True):
            if not (name == "loss_sum" and odd == -1 and odd is not True):
                assert not goes_on(description={**stored, name: odd}), (name, odd)
        if isinstance(value, int):
            assert not goes_on(description={**stored, name: value + 1}) or name == "batch", name
    for content in (b"", b"\xff", b"[]", b"[" * 10**5, b'{"loss_sum": NaN}'):
        assert not goes_on(description=content)
    assert not goes_on(description={**stored, "history": [{"loss": 1.0}]})


def test_fit__checkpoint_with_nan_weight_starts_from_scratch(
    toy: ModuleType, stored: ModuleType, tmp_path: Path
) -> None:
    assert _fit(toy, tmp_path / "one").resumed_from == 0
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    path = tmp_path / "other" / "checkpoint" / _TENSORS
    named = stored.arrays(path.read_bytes())
    named["model.classifier.weight"].flat[0] = np.nan
    path.write_bytes(stored.packed(named))
    assert _fit(toy, tmp_path / "other").resumed_from == 0
    for name in ("weights.safetensors", "model.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
