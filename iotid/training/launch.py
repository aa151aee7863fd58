"""Starts the ranks: by Spark's TorchDistributor, or in this process if torchrun started it as a rank."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from iotid import config, messages
from iotid.errors import IotidError, SettingError, TrainingError
from iotid.spark.phases import set_phase
from iotid.spark.worker_errors import WorkerError, find_errors, mark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OnEpoch = Callable[[dict[str, float], int], None]

# errors of a rank that lost its connection to another one, whose error is the one to report
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
_TORCHRUN = re.compile(r"^[WE]\d{4} .*\btorch/distributed/elastic/")  # how torchrun's own failure lines start


def train_on_ranks(
    spark: SparkSession | None,
    settings: config.Settings,
    dataset_uri: str,
    folder: str | Path,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train on ``training.ranks`` processes; ``folder`` then contains the bundle of the best weights and its history.

    On a local master the ranks are processes of this machine. On a cluster they are barrier tasks of executors, which
    must have access to ``dataset_uri``; rank 0 returns the bundle through Spark. Checkpoints stay in ``folder`` on rank
    0's machine, so a restart on another executor finds them only if the folder is shared. Under torchrun (WORLD_SIZE
    and RANK are set) this process is one rank, and ``spark`` is not used.

    ``on_epoch(metrics, epoch)`` is pickled and called in rank 0's process. Returns ``FitResult`` as a dict, with this
    process's ``rank`` (0 unless under torchrun).

    Raises:
        TrainingError: a rank failed; this, or a more specific IotidError, has the rank's own message.
    """
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return _fit_as_rank(settings, dataset_uri, str(folder), on_epoch)
    if spark is None:
        raise SettingError("training: without torchrun's WORLD_SIZE and RANK the ranks need a Spark session to start")
    from pyspark.ml.torch.distributor import TorchDistributor

    local = str(spark.sparkContext.master).startswith("local")
    set_phase(spark, "train", f"{settings.training.ranks} ranks on {dataset_uri}")
    on_gpus = not local and _uses_cluster_gpus(spark, settings.training.device)
    relay = _Relay(sys.stderr)  # TorchDistributor writes the ranks' output to stdout if local, to stderr on a cluster
    with (
        _environment(rank_environment(settings.training, local)),
        contextlib.redirect_stdout(relay),
        contextlib.redirect_stderr(relay),
    ):
        distributor = TorchDistributor(settings.training.ranks, local_mode=local, use_gpu=on_gpus)
        distributor.logger.setLevel(logging.ERROR)
        try:
            returned: Any = distributor.run(_run_rank, settings, dataset_uri, str(folder), on_epoch, not local, mark())
        except Exception as fault:  # noqa: BLE001 - RuntimeError here, any of Spark's errors on a cluster
            raise error_of_rank(relay.text() + str(fault)) from None
    result, files = returned
    _write_files(Path(folder), files)
    return dict(result)


def _run_rank(
    settings: config.Settings,
    dataset_uri: str,
    folder: str,
    on_epoch: OnEpoch | None,
    return_files: bool,
    driver_mark: str,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Entry point of a rank's process. ``return_files``: also return the files, for a driver on another machine.

    ``driver_mark``: the driver's token, which authenticates the error that this process prints.
    """
    from iotid.model.bundle import DESCRIPTION, WEIGHTS
    from iotid.training.fit import HISTORY

    messages.log_to_stderr()
    os.umask(int(settings.storage.umask, 8))
    try:
        result = _fit_as_rank(settings, dataset_uri, folder, on_epoch)
        if result["rank"] and not return_files:
            _end_process()
        wanted = (WEIGHTS, DESCRIPTION, HISTORY) if return_files and result["rank"] == 0 else ()
        return result, {name: (Path(folder) / name).read_bytes() for name in wanted}
    except Exception as fault:  # noqa: BLE001 - the driver reports any error
        lost = any(words in str(fault) for words in _LOST_PEER)
        if not lost and not isinstance(fault, IotidError):
            sys.stderr.write(messages.format_traceback(fault) + "\n")
        error = WorkerError.of(fault, rank=int(os.environ["RANK"]), lost=lost)
        sys.stderr.write(error.to_line(driver_mark) + "\n")
        raise SystemExit(1) from None  # nonzero: torchrun then stops the other ranks, which wait for this one


def _end_process() -> None:
    """End a rank other than 0 of this machine, which has nothing to return, while rank 0 is still at work.

    All ranks of a machine would write their results to one file. And a process that used torch.distributed may abort
    when Python ends; torchrun then stops rank 0 before it has written the bundle, and TorchDistributor drops its exit
    code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _fit_as_rank(settings: config.Settings, dataset_uri: str, folder: str, on_epoch: OnEpoch | None) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from iotid.dataset import read_encoding, read_sets, read_split
    from iotid.training.fit import fit

    torch.set_num_threads(settings.training.threads)
    dist.init_process_group(_backend(settings.training))
    try:
        encoding = read_encoding(dataset_uri)
        train, validation = (read_split(dataset_uri, part) for part in ("train", "validation"))
        sets = read_sets(dataset_uri) if dist.get_rank() == 0 else None
        result = fit(
            settings.model, settings.training, encoding, train, validation, folder, sets=sets, on_epoch=on_epoch
        )
        return {**asdict(result), "rank": dist.get_rank()}
    finally:
        dist.destroy_process_group()


def _backend(settings: config.Training) -> str:
    """NCCL if each rank of this machine has its own GPU, which becomes the current device; else gloo."""
    import torch

    if settings.device == "cpu" or not torch.cuda.is_available():
        return "gloo"
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    torch.cuda.set_device(local_rank % gpus)
    return "nccl" if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus else "gloo"


def _uses_cluster_gpus(spark: SparkSession, device: str) -> bool:
    amount = spark.sparkContext.getConf().get("spark.task.resource.gpu.amount", "0")
    if device == "cuda" and float(amount or 0) < 1:
        raise SettingError(
            f"training.device: is cuda, but spark.task.resource.gpu.amount is {amount}; set it to 1, or device to cpu"
        )
    return device != "cpu" and float(amount or 0) >= 1


def rank_environment(settings: config.Training, local: bool) -> dict[str, str]:
    """Environment variables of ranks: threads and, on a local master, loopback, because a host name may not resolve."""
    environment = {"OMP_NUM_THREADS": str(settings.threads)}
    if local:
        environment["PET_LOCAL_ADDR"] = "127.0.0.1"  # torchrun's --local-addr, which TorchDistributor does not pass on
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        if loopback:
            environment["GLOO_SOCKET_IFNAME"] = loopback
    return environment


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Relay(io.TextIOBase):
    """Forwards the ranks' output up to the first failure, which torchrun's own lines follow.

    Keeps the last lines, because TorchDistributor's error does not contain the reason of a failure.
    """

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._failed = False
        self._last: deque[str] = deque(maxlen=200)

    def write(self, text: str) -> int:
        self._last.append(text)
        failures = find_errors(text)
        if _TORCHRUN.search(text) or not all(failure.lost for failure in failures):
            self._failed = True
        if not (self._failed or failures):
            self._to.write(text)
            self._to.flush()
        return len(text)

    def text(self) -> str:
        return "".join(self._last)


def error_of_rank(output: str) -> IotidError:
    """The failed rank's own error, parsed from the last lines of the ranks' output."""
    failures = [failure for failure in find_errors(output) if not failure.lost]
    known = next((error for failure in failures if (error := failure.as_iotid_error())), None)
    if known is not None:
        return known
    for failure in failures:
        return TrainingError(f"training: rank {failure.rank} failed: {failure.kind}: {failure.text}")
    clues = (
        re.search(r"exitcode\s*: *-?\d+", output),
        *re.finditer(r"^[\w.]*(?:Error|Exception): .+$", output, re.MULTILINE),
    )
    clue_text = next((clue[0] for clue in clues if clue), "it printed no reason")
    return TrainingError(
        f"training: a rank was killed or crashed ({clue_text}); if memory ran out, set fewer training.ranks; run the "
        "command again to resume from the last checkpoint"
    )


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    from iotid.model.bundle import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
