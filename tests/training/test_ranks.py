"""Two ranks over gloo on loopback equal one, for any number of rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.ddp

_SAME = ["even", "uneven", "one_row_left", "fewer_rows_than_ranks", "balanced"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks trained on every case of rank_process.py."""
    folder = tmp_path_factory.mktemp("two-ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("rank_process.py")
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)], env={**os.environ, **rendezvous, "RANK": str(rank)}
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """Case -> result, of rank 0 and of rank 1."""
    results: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


@pytest.mark.parametrize("case", _SAME)
def test_two_ranks__give_the_result_of_one(
    toy: ModuleType, results: list[dict[str, Any]], folder: Path, tmp_path: Path, case: str
) -> None:
    alone = toy.run(case, 0, tmp_path)
    for rank in range(2):
        for name in ("loss", "validation_loss", "validation_macro_f1", "validation_accuracy"):
            together = [epoch[name] for epoch in results[rank][case]["history"]]
            np.testing.assert_allclose(together, [epoch[name] for epoch in alone["history"]], rtol=1e-4, err_msg=name)
    weights = load_file(tmp_path / "weights.safetensors")
    for name, tensor in load_file(folder / case / "weights.safetensors").items():
        np.testing.assert_allclose(tensor.numpy(), weights[name].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def test_two_ranks__same_seed_and_world_give_the_same_losses(results: list[dict[str, Any]]) -> None:
    first, again = ([epoch["loss"] for epoch in results[0][case]["history"]] for case in ("dropout", "dropout again"))
    assert first == again


def test_two_ranks__agree_on_the_metrics(results: list[dict[str, Any]]) -> None:
    for name in ("loss", "validation_macro_f1"):
        first, second = ([epoch[name] for epoch in rank["dropout"]["history"]] for rank in results)
        assert first == second


def test_two_ranks__non_finite_loss_stops_both_before_the_step(results: list[dict[str, Any]]) -> None:
    for rank in results:
        assert rank["not_finite"]["error"] == "TrainingError"
        assert "batch 2 in epoch 1" in rank["not_finite"]["message"]


def test_two_ranks__different_rows_stop_both(results: list[dict[str, Any]]) -> None:
    for rank in results:
        assert rank["other_rows"]["error"] == "TrainingError"
        assert "1 of 2 ranks have other rows" in rank["other_rows"]["message"]
