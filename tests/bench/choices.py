"""choices.py [--captures DIR --labels FILE]...: choices that the paper leaves open, one changed at a time.

Each variant is trained with every seed (initial weights, order, dropout) on the same parts of the same flows: 70/15/15
of each label's captures, or 80/10/10 of all flows. The epoch with the best validation macro F1 is tested;
reported are macro F1 and accuracy, as mean and standard deviation over the seeds.
The networks are smaller than the paper's, so that all variants take an hour or two. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile

import numpy as np
import torch
from learning import CAPTURES_HELP, given_flows, rows_of

from iotid import config
from iotid.evaluation.metrics import confusion_matrix, macro_f1
from iotid.model import Predictor
from iotid.training.fit import fit

_SMALL = ("model.embedding_size=32", "model.hidden_size=32", "training.learning_rate=0.004", "training.epochs=12")
_VARIANTS = {
    "defaults": (),
    "fusion: sequence": ("model.fusion=sequence",),
    "read-out: last": ("model.readout=last",),
    "fusion: sequence, read-out: last": ("model.fusion=sequence", "model.readout=last"),
    "padding: zeros": ("model.padding=zeros",),
    "padding: zeros, read-out: last": ("model.padding=zeros", "model.readout=last"),
    "length: frame": ("flow.length=frame",),
    "min_count: 2": ("dataset.min_count=2",),
    "min_count: 4": ("dataset.min_count=4",),
    "repeat_weight: 1 (as copies)": ("training.repeat_weight=1",),
    "repeat_weight: 0": ("training.repeat_weight=0",),
    "class_weight: none": ("training.class_weight=none",),
    "class_weight: balanced": ("training.class_weight=balanced",),
}


def measure(pairs: list[tuple[str, str]], split: str, changes: tuple[str, ...], seeds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"macro_f1": [], "accuracy": []}
    bench = given_flows(pairs, config.load_settings(overrides=changes), split)
    train, validation, test = (rows_of(bench, part) for part in range(3))
    for seed in range(1, seeds + 1):
        settings = config.load_settings(overrides=[*_SMALL, *changes, f"training.seed={seed}"])
        with tempfile.TemporaryDirectory() as folder:
            fit(settings.model, settings.training, bench.encoding, train, validation, folder)
            answered = Predictor.load(folder).probabilities(test.sequences).argmax(axis=1)
        confusion = confusion_matrix(test.label, answered, test.num_flows, len(bench.encoding.labels))
        found["macro_f1"].append(macro_f1(confusion))
        found["accuracy"].append(float(confusion.trace() / confusion.sum()))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", action="append", default=[], help=CAPTURES_HELP)
    options.add_argument("--labels", action="append", default=[], help="device list of each of them")
    options.add_argument("--split", choices=["captures", "flows"], default="captures")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--only", action="append", choices=list(_VARIANTS), help="repeatable; default: all")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    pairs = list(zip(given.captures, given.labels, strict=True))
    results = {}
    for name in given.only or _VARIANTS:
        found = measure(pairs, given.split, _VARIANTS[name], given.seeds)
        results[name] = {key: [round(value, 4) for value in values] for key, values in found.items()}
        words = [f"{key} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for key, values in found.items()]
        sys.stderr.write(f"{name}: {', '.join(words)}\n")
    sys.stdout.write(
        json.dumps({"split": given.split, "seeds": given.seeds, "settings": _SMALL, "variants": results}) + "\n"
    )


if __name__ == "__main__":
    main()
