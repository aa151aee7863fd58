"""learning.py train|predict [--captures DIR --labels FILE]...: iotid's model and the plain one, at the paper's size.

The plain one (`plain.py`) is the paper's network without optimisation: every flow, 32 steps each, float32, dense Adam
over all 65,536 windows, settings of conf/paper.yaml. iotid learns with those of conf/base.yaml, where the network has
the paper's size, too. Both learn the same flows' lengths and windows; `predict` gives both the same weights, trained
for 4 epochs, and compares the classes that both networks answer, without the counts of sequences. Flows: of one or more
folders of captures, each with its device list, split 80/10/10 at random with a seed (default: simulated captures). Ends
with one line of JSON.

predict: rates of iotid with the same bundle, and the ratio of each to the plain one by CPU time:
  anew                      all flows, no answer kept: every distinct sequence of the call is computed
  bundle                    all flows, by a process that has just loaded the bundle with its answers for training's
  again                     the same flows once more, by the same process
  unrepeated                flows drawn so that they are in no training and hardly repeat: nothing is known of them
  second_night_by_bundle    the test part alone, other flows of the same devices, by a new process
  second_night_after_first  the same, by a process that predicted the training and validation parts, the first night

train: flows a second of both (the plain one timed over --plain-steps steps of 256 flows); with --plain-epochs N also
the time until iotid's validation macro F1 comes within 0.3 points of the best in N epochs of the plain one. Those would
take days, so they are computed with iotid's layers (the same function; the largest difference of a logit is printed) on
the plain one's batches of copies, each copy with its own dropout, and a step counts as long as the plain one's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from plain import PlainEnsemble, batch_of, values_of
from torch.nn import functional as F

from iotid import config
from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.dataset.characteristics import select_characteristics
from iotid.evaluation.metrics import macro_f1
from iotid.flows import from_captures
from iotid.labels import DeviceList
from iotid.model import AdaptiveEnsemble, Predictor
from iotid.model.bundle import WEIGHTS, Learned, vocabulary_sizes
from iotid.model.network.kept_answers import keys_of
from iotid.model.network.sequences import distinct_sequences, step_counts, tensors_of
from iotid.simulate.captures import write_demo
from iotid.training.fit import fit

_CLOSE = 0.003  # of macro F1
_BATCH = 256  # flows of one step of the plain model
_SHARES = (0.8, 0.9)
_SHARES_OF_CAPTURES = (0.7, 0.85)


CAPTURES_HELP = "folder of captures; repeatable; default: simulated captures"


class Bench(NamedTuple):
    """Labelled flows, and the rows of the training, validation and test part."""

    flows: pa.Table
    label: np.ndarray
    parts: list[np.ndarray]
    encoding: Encoding


def given_flows(folders: list[tuple[str, str]], settings: config.Settings, split: str = "flows") -> Bench:
    """Flows of the folders, or of the demo's captures without any."""
    if folders:
        return read_flows(folders, settings, split)
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder))
        return read_flows([(f"{folder}/captures", f"{folder}/devices.yaml")], settings, split)


def read_flows(folders: list[tuple[str, str]], settings: config.Settings, split: str) -> Bench:
    """Flows of every folder that its list knows, TCP and UDP, of models with ten or more.

    Parts are drawn by a seed: from all ``flows``, or from each label's ``captures``, which then are in one part whole.
    """
    tables, names = [], []
    for captures, listed in folders:
        devices = DeviceList.read(listed)
        flows = from_captures(captures, join_files=False, length=settings.flow.length)
        flows = flows.filter(pc.is_in(flows["protocol"], value_set=pa.array([6, 17], pa.int32())))
        number_N = devices.match(flows)
        tables.append(flows.filter(pa.array(number_N >= 0)).replace_schema_metadata())
        names.append(np.array(devices.labels("model"), object)[number_N[number_N >= 0]])
    label_N = np.concatenate(names)
    labels, counts = np.unique(label_N.astype(str), return_counts=True)
    kept = np.isin(label_N.astype(str), labels[counts >= 10])
    labels = tuple(labels[counts >= 10].tolist())
    flows = pa.concat_tables(tables).filter(pa.array(kept))
    label_N = np.searchsorted(labels, label_N[kept].astype(str))
    parts = _split(label_N, flows["capture_file"], split)
    train = flows.take(pa.array(parts[0]))
    vocabularies = {}
    for name, each in select_characteristics(settings.dataset.characteristics).items():
        values, times = np.unique(train[each.column].combine_chunks().flatten().to_numpy(), return_counts=True)
        vocabularies[name] = Vocabulary(tuple(values[times >= settings.dataset.min_count].tolist()))
    encoding = Encoding(settings.flow.max_packets, vocabularies, labels, {}, (6, 17), settings.flow.length)
    return Bench(flows, label_N, parts, encoding)


def _split(label_N: np.ndarray, capture_N: pa.ChunkedArray, split: str) -> list[np.ndarray]:
    """Flows of the training, validation and test part."""
    random = np.random.default_rng(1)
    if split == "flows":
        order = random.permutation(len(label_N))
        return np.split(order, [int(share * len(order)) for share in _SHARES])
    number_N = capture_N.combine_chunks().dictionary_encode().indices.to_numpy()
    part_N = np.empty(len(label_N), np.int64)
    for label in range(label_N.max() + 1):
        own = random.permutation(np.unique(number_N[label_N == label]))
        ends = [round(share * len(own)) for share in _SHARES_OF_CAPTURES]
        for part, captures in enumerate(np.split(own, ends)):
            part_N[(label_N == label) & np.isin(number_N, captures)] = part
    return [np.flatnonzero(part_N == part) for part in range(3)]


def rows_of(bench: Bench, part: int) -> EncodedFlows:
    """The distinct (sequences, label) of a part, as a dataset holds them."""
    own = bench.parts[part]
    sequences = bench.encoding.encode(bench.flows.take(pa.array(own)))
    with_label, which = distinct_sequences({**sequences, "": bench.label[own].astype(np.int32)[:, None].repeat(
        bench.encoding.max_packets, axis=1)})  # fmt: skip
    label = with_label.pop("")[:, 0].astype(np.int64)
    return EncodedFlows(with_label, label, np.bincount(which, minlength=len(label)))


def time_plain(bench: Bench, settings: config.Settings, steps: int) -> dict[str, float]:
    """Flows a second over some steps, and the largest difference to logits of iotid's layers with the same weights."""
    torch.manual_seed(1)
    sequences = values_of(bench.flows, bench.encoding.max_packets)
    model = PlainEnsemble(settings.model, len(bench.encoding.labels))
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
    labels = torch.from_numpy(bench.label)

    def step(rows: np.ndarray) -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch_of(sequences, rows)), labels[rows]).backward()
        optimiser.step()

    draw = np.random.default_rng(1)
    step(bench.parts[0][:_BATCH])
    begin = time.perf_counter()
    for _ in range(steps):
        step(draw.choice(bench.parts[0], _BATCH))
    seconds = (time.perf_counter() - begin) / steps
    ours, some = new_ensemble(bench, settings).eval(), bench.parts[0][:_BATCH]
    model.eval().load_weights(ours, bench.encoding.vocabularies)
    with torch.inference_mode():
        encoded = batch_of(bench.encoding.encode(bench.flows.take(pa.array(some))), slice(None))
        difference = float((ours(encoded) - model(batch_of(sequences, some))).abs().max())
    return {"flows_per_s": round(_BATCH / seconds, 1), "step_s": round(seconds, 2), "logits_apart": difference}


def new_ensemble(bench: Bench, settings: config.Settings) -> AdaptiveEnsemble:
    sizes = vocabulary_sizes(bench.encoding)
    return AdaptiveEnsemble(settings.model, sizes, len(bench.encoding.labels))


def learn_as_plain(bench: Bench, settings: config.Settings, epochs: int, step_s: float) -> list[dict[str, float]]:
    """Validation macro F1 of every epoch over all copies of all flows, and the plain model's seconds until then."""
    torch.manual_seed(1)
    model = new_ensemble(bench, settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
    distinct, which = distinct_sequences(bench.encoding.encode(bench.flows))
    counts, labels = step_counts(distinct, settings.model.padding), torch.from_numpy(bench.label)
    copies: list[torch.Tensor] = []
    model.dropout.register_forward_pre_hook(lambda _, given: given[0][copies[0]])
    draw, curve = np.random.default_rng(1), []
    for epoch in range(1, epochs + 1):
        batches = np.array_split(draw.permutation(bench.parts[0]), -(-len(bench.parts[0]) // _BATCH))
        for rows in batches:
            own, copied = np.unique(which[rows], return_inverse=True)
            copies[:] = [torch.from_numpy(copied)]
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(model.train()(tensors_of(distinct, own, counts)), labels[rows]).backward()
            optimiser.step()
        confusion = np.zeros((len(bench.encoding.labels),) * 2)
        for rows in np.array_split(bench.parts[1], 32):
            own, copied = np.unique(which[rows], return_inverse=True)
            copies[:] = [torch.from_numpy(copied)]
            with torch.inference_mode():
                named = model.eval()(tensors_of(distinct, own, counts)).argmax(dim=1).numpy()
            np.add.at(confusion, (bench.label[rows], named), 1)
        curve.append({"seconds": round(epoch * len(batches) * step_s), "macro_f1": round(macro_f1(confusion), 5)})
        sys.stderr.write(f"plain, epoch {epoch}: {curve[-1]}\n")
    return curve


@torch.inference_mode()
def predict_plain(model: PlainEnsemble, sequences: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Logits (N, C)."""
    batches = [rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)]
    return torch.cat([model(batch_of(sequences, batch)) for batch in batches]).numpy()


def train_iotid(bench: Bench, settings: config.Settings, folder: Path) -> dict[str, Any]:
    train, validation = rows_of(bench, 0), rows_of(bench, 1)
    epochs: list[dict[str, float]] = []

    def note(metrics: dict[str, float], _: int) -> None:
        seconds = metrics["seconds"] + (epochs[-1]["seconds"] if epochs else 0)
        epochs.append({"seconds": round(seconds, 1), "macro_f1": round(metrics["validation_macro_f1"], 5)})
        sys.stderr.write(f"iotid: {epochs[-1]}\n")

    found = fit(settings.model, settings.training, bench.encoding, train, validation, folder, on_epoch=note)
    times = [epoch["flows_per_s"] for epoch in found.history]
    return {"rows": len(train.label), "flows_per_s": round(float(np.median(times)), 1), "epochs": epochs}


def bench_train(bench: Bench, settings: config.Settings, given: argparse.Namespace) -> dict[str, Any]:
    plain: dict[str, Any] = time_plain(bench, settings, given.plain_steps)
    plain["epochs"] = learn_as_plain(bench, settings, given.plain_epochs, plain["step_s"])
    own = config.load_settings(overrides=given.set)
    with tempfile.TemporaryDirectory() as folder:
        ours = train_iotid(bench, own, Path(folder))
    ratios = {"flows_per_s": ours["flows_per_s"] / plain["flows_per_s"]}
    if plain["epochs"]:
        best = max(plain["epochs"], key=lambda epoch: epoch["macro_f1"])
        there = [epoch["seconds"] for epoch in ours["epochs"] if epoch["macro_f1"] >= best["macro_f1"] - _CLOSE]
        ratios["time_to_macro_f1"] = best["seconds"] / there[0] if there else 0.0
    return {"plain": plain, "iotid": ours, "ratios": {name: round(value, 1) for name, value in ratios.items()}}


def bench_predict(bench: Bench, settings: config.Settings, given: argparse.Namespace) -> dict[str, Any]:
    own = config.load_settings(overrides=["training.epochs=4", *given.set])
    with tempfile.TemporaryDirectory() as folder:
        train_iotid(bench, own, Path(folder))
        size = Path(folder, WEIGHTS).stat().st_size
        predictor, fresh = Predictor.load(folder), Predictor.load(folder)
    kept = predictor.learned.answers
    without = replace(predictor.learned, answers=None)
    anew = Predictor(predictor._model, bench.encoding, without, recent_bytes=0)
    anew.predict(bench.flows.slice(0, 1000))
    first, second = (bench.flows.take(pa.array(rows)) for rows in (np.concatenate(bench.parts[:2]), bench.parts[2]))
    unrepeated = unrepeated_flows(bench, given.unrepeated_flows)
    rates: dict[str, dict[str, float]] = {}
    computed, rates["anew"] = _timed_predict(anew, bench.flows)
    answers, rates["bundle"] = _timed_predict(fresh, bench.flows)
    alone = Predictor(predictor._model, bench.encoding, Learned(answers=kept)).predict(bench.flows)
    _, rates["again"] = _timed_predict(fresh, bench.flows)
    _, rates["unrepeated"] = _timed_predict(fresh, unrepeated)
    _, rates["second_night_by_bundle"] = _timed_predict(predictor, second)
    nightly = Predictor(predictor._model, bench.encoding, predictor.learned)
    nightly.predict(first)
    _, rates["second_night_after_first"] = _timed_predict(nightly, second)
    plain = PlainEnsemble(settings.model, len(bench.encoding.labels)).eval()
    plain.load_weights(predictor._model, bench.encoding.vocabularies)
    some = np.random.default_rng(1).permutation(len(bench.flows))[: given.plain_flows or len(bench.flows)]
    sequences = values_of(bench.flows, bench.encoding.max_packets)
    logits, rates["plain"] = _timed(lambda: predict_plain(plain, sequences, some), len(some))
    top = np.sort(logits, axis=1)
    named = pc.index_in(alone["label"], value_set=pa.array(bench.encoding.labels)).to_numpy()[some]
    differ = named != logits.argmax(axis=1)
    ties = top[:, -1] - top[:, -2] < given.tie
    new = [_new_sequences(bench, predictor, rows) for rows in (np.arange(len(bench.flows)), bench.parts[2])]
    return {
        "rates": rates,
        "ratios": {name: round(rate["cpu_rate"] / rates["plain"]["cpu_rate"], 1) for name, rate in rates.items()},
        "sequences_not_in_the_bundle": dict(zip(("bundle", "second_night_by_bundle"), new, strict=True)),
        "answers_in_the_bundle": {
            "number": len(kept.keys) if kept else 0,
            "bytes": kept.keys.nbytes + kept.probabilities.nbytes if kept else 0,
            "bytes_of_all_weights": size,
        },
        "bits_unlike_computed_anew": int(not answers.equals(computed)),
        "differ": int(differ.sum()),
        "differ_beyond_ties": int((differ & ~ties).sum()),
        "tie": given.tie,
    }


def _timed_predict(predictor: Predictor, flows: pa.Table) -> tuple[pa.Table, dict[str, float]]:
    return _timed(lambda: predictor.predict(flows), len(flows))


def _timed(call: Callable[[], Any], flows: int) -> tuple[Any, dict[str, float]]:
    """What it returns; and flows a second, and a second of all cores' time (CPU)."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    found = call()
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
    rates = {"flows_per_s": round(flows / seconds, 1), "cpu_rate": round(flows / cpu_s, 1)}
    return found, {"flows": flows, "seconds": round(seconds, 3), "cpu_s": round(cpu_s, 3), **rates}


def unrepeated_flows(bench: Bench, number: int) -> pa.Table:
    """Flows of the captures' lengths whose values are drawn anew from those of training, so that none occurred there
    or repeats, but for a few of one or two packets."""
    random = np.random.default_rng(2)
    taken = bench.flows.take(pa.array(random.choice(len(bench.flows), number)))
    for name, known in bench.encoding.vocabularies.items():
        lists = taken[name].combine_chunks()
        values = random.choice(np.array(known.values), len(lists.flatten())).astype(np.int32)
        drawn = pa.ListArray.from_arrays(lists.offsets, pa.array(values, lists.type.value_type))
        taken = taken.set_column(taken.column_names.index(name), name, drawn)
    return taken


def _new_sequences(bench: Bench, predictor: Predictor, rows: np.ndarray) -> dict[str, int]:
    """Number of distinct sequences of these flows, and of those whose answer is not in the bundle."""
    distinct, _ = distinct_sequences(bench.encoding.encode(bench.flows.take(pa.array(rows))))
    keys = keys_of(distinct)
    kept = predictor.learned.answers
    return {"distinct": len(keys), "new": int((kept.find(keys) < 0).sum()) if kept else len(keys)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["train", "predict"])
    options.add_argument("--captures", action="append", default=[], help=CAPTURES_HELP)
    options.add_argument("--labels", action="append", default=[], help="device list of each of them")
    options.add_argument("--set", action="append", default=[], help="section.key=value, of both")
    options.add_argument("--plain-steps", type=int, default=10)
    options.add_argument("--plain-epochs", type=int, default=0, help="the plain model's training; 0: speed only")
    options.add_argument("--plain-flows", type=int, default=4096, help="flows that the plain model scores; 0: all")
    options.add_argument("--unrepeated-flows", type=int, default=2048, help="flows that never repeat, of predict")
    options.add_argument("--tie", type=float, default=1e-4, help="difference of logits below which classes are equal")
    given = options.parse_args()
    if len(given.captures) != len(given.labels):
        options.error("each --captures needs its --labels")
    # the plain one computes all of the padding, without effect on its output
    settings = config.load_settings(["paper.yaml"], ["model.padding=ignored", *given.set])
    bench = given_flows(list(zip(given.captures, given.labels, strict=True)), settings)
    summary = {"flows": len(bench.flows), "classes": len(bench.encoding.labels), "threads": torch.get_num_threads()}
    summary["values"] = {name: known.size for name, known in bench.encoding.vocabularies.items()}
    sys.stderr.write(f"{summary}\n")
    found = (bench_train if given.what == "train" else bench_predict)(bench, settings, given)
    sys.stdout.write(json.dumps({**summary, **found}) + "\n")


if __name__ == "__main__":
    main()
