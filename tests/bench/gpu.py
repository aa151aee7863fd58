"""gpu.py [--device cpu] [--small] [--wheels DIR]: training and prediction on this machine's GPUs. Minutes.

It is a program of its own, which needs no `make setup`: beside a checkout (or this folder and a wheel of iotid) only
Python 3.11 or later, torch with CUDA, and what iotid.model and iotid.training import:

    numpy scipy pyarrow safetensors pyyaml lazy-loader pydantic pydantic-core annotated-types typing-inspection

and so no Spark, Numba, pandas or MLflow. What is not installed is read from the wheels in DIR, which are unpacked into
a temporary folder: iotid's (make wheel), and others for that machine's Python, such as

    pip download --no-deps --dest DIR --constraint dist/constraints.txt pydantic pydantic-core annotated-types …

The flows are synthetic: distinct rows with the lengths and the repeats of real ones, and the networks have the paper's
size. Ends with one line of JSON:

  same_losses   losses of the same steps on the CPU and on the device, without dropout: the largest difference
  ranks         training by one rank and by one for each GPU (NCCL): flows/s, and an all-reduce of all gradients
  training      flows/s of iotid (conf/base.yaml) and of the plain model (plain.py, conf/paper.yaml) on one GPU
  prediction    the same flows: iotid computes each distinct sequence once. `Predictor` computes on the CPU, so this is
                the network as validation runs it, with the search for distinct sequences
  steps         a step of training, by precision and batch size: ms from end to end, with batches that lie on the device
                already (the difference is what loading costs), and of the three torch.nn.LSTM alone (cuDNN), same
                packed shapes; shares of the step, and of the TFLOP/s of a large matrix product in that precision
  peak_memory_mb  allocated on the device by iotid's training and by the plain model's; on a CPU of the whole process

Without a GPU it ends with exit code 2. --device cpu --small runs the same on a CPU with tiny networks, gloo instead of
NCCL and two ranks, to test the program: those numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

_NEEDED = ("torch", "pyarrow", "safetensors", "iotid.training.fit")


def use_wheels(folder: Path, target: Path) -> None:
    """Unpack all wheels into ``target``, from which is imported what is not installed.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ValueError(f"--wheels: {folder} has no wheels (*.whl); make wheel writes iotid's into dist/")
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        except (OSError, zipfile.BadZipFile) as fault:
            raise ValueError(f"--wheels: {wheel} cannot be unpacked ({fault}); copy it again") from None
    sys.path.append(str(target))  # processes of other ranks take over this path


def check_device(device: str) -> None:
    """Raises a ValueError if a package or the GPU is missing."""
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as fault:
            raise ValueError(
                f"{name}: cannot be imported ({fault}); install it, or pass --wheels with a folder of wheels"
            ) from None
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device: is cuda, but torch finds no GPU here; use a machine with a GPU and a torch built for CUDA, or "
            "pass --device cpu --small to test the program"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--small", action="store_true", help="tiny networks and few flows, to test the program")
    options.add_argument("--wheels", type=Path, help="folder with wheels of what is not installed")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="iotid-wheels-", ignore_cleanup_errors=True) as unpacked:
        try:
            if given.wheels:
                use_wheels(given.wheels, Path(unpacked))
            sys.path.append(str(Path(__file__).resolve().parents[2]))  # the checkout
            check_device(given.device)
        except ValueError as fault:
            sys.stderr.write(f"Error: {fault}\n")
            raise SystemExit(2) from None
        from gpu_measures import measure

        sys.stdout.write(json.dumps(measure(given.device, small=given.small)) + "\n")


if __name__ == "__main__":
    main()
