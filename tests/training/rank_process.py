"""A toy problem, and a process that trains on it as one rank of several: ``python rank_process.py FOLDER``.

The rendezvous is in the environment, as torchrun sets it. Rank 0 writes the results into FOLDER/results.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch.distributed as dist
from torch.nn import functional as F

from iotid import config
from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.errors import IotidError
from iotid.training.fit import fit

MODEL = config.with_values(
    config.load_settings().model, embedding_size=6, hidden_size=6, layers=1, dropout=0.0, sequence_counts=False
)
ENCODING = Encoding(
    max_packets=6,
    vocabularies={"packet_length": Vocabulary(tuple(range(40, 52))), "tcp_window": Vocabulary(tuple(range(8)))},
    labels=("camera", "plug", "hub"),
    devices={},
    protocols=(6, 17),
    length="ip",
)


def training(**changes: Any) -> config.Training:
    plain = config.load_settings().training.model_dump()
    small = {"ranks": 1, "epochs": 3, "patience": 9, "batch_size": 16, "learning_rate": 0.02, "device": "cpu"}
    # products in bfloat16, where the processor has them, are too coarse to compare two orders of adding up
    return config.Training.model_validate({**plain, **small, "precision": "float32", **changes})


def rows(number: int, seed: int = 0) -> EncodedFlows:
    """Flows whose class follows from the first packet's length; the rest is noise."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, number)
    there = np.arange(6) < random.integers(1, 7, (number, 1))
    sequences = {
        name: (random.integers(1, vocabulary.size, (number, 6)) * there).astype(np.int32)
        for name, vocabulary in ENCODING.vocabularies.items()
    }
    sequences["packet_length"][:, 0] = 2 + 4 * label + random.integers(0, 4, number)
    return EncodedFlows(sequences, label.astype(np.int64), random.integers(1, 6, number))


CASES: dict[str, Callable[[int], dict[str, Any]]] = {  # rank -> arguments of fit
    "even": lambda rank: {"train": rows(64), "settings": training()},
    "uneven": lambda rank: {"train": rows(37), "settings": training(batch_size=7)},
    "one_row_left": lambda rank: {"train": rows(17), "settings": training()},
    "fewer_rows_than_ranks": lambda rank: {"train": rows(1), "settings": training()},
    "balanced": lambda rank: {"train": rows(41), "settings": training(class_weight="balanced")},
    "dropout": lambda rank: {
        "train": rows(41),
        "settings": training(),
        "model": MODEL.model_copy(update={"dropout": 0.5}),
    },
    "not_finite": lambda rank: {"train": rows(64), "settings": training(), "broken": rank == 1},
    "other_rows": lambda rank: {"train": rows(64, seed=rank), "settings": training()},
}


@contextlib.contextmanager
def loss_not_finite_from_batch_2() -> Iterator[None]:
    original, calls = F.cross_entropy, itertools.count(1)

    def broken(*given: Any, **options: Any) -> Any:
        return original(*given, **options) * (float("nan") if next(calls) >= 2 else 1.0)

    with mock.patch.object(F, "cross_entropy", broken):
        yield


def run(case: str, rank: int, folder: Path) -> dict[str, Any]:
    """The result of ``fit``, or its error."""
    given = CASES[case](rank)
    model = given.get("model", MODEL)
    breaking = loss_not_finite_from_batch_2() if given.get("broken") else contextlib.nullcontext()
    try:
        with breaking:
            result = fit(model, given["settings"], ENCODING, given["train"], rows(23, seed=9), folder)
        return dataclasses.asdict(result)
    except IotidError as fault:
        return {"error": type(fault).__name__, "message": str(fault)}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {case: run(case, rank, folder / case) for case in CASES}
    again = run("dropout", rank, folder / "dropout again")
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, {**results, "dropout again": again})
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(everyone))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(Path(sys.argv[1]))
