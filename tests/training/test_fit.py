"""Training on one rank: learning, early stopping, resuming, and row weights."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iotid.dataset import EncodedFlows, FlowSets
from iotid.errors import DataError, SettingError, TrainingError
from iotid.model import Predictor
from iotid.model.bundle import Learned
from iotid.model.network.sequences import distinct_sequences
from iotid.training import fit as fit_module
from iotid.training.fit import FitResult, fit, one_cycle
from iotid.training.ranks import Ranks

_TIMES = ("seconds", "rows_per_s", "flows_per_s")


def _fit(
    toy: ModuleType, folder: Path, *, train: EncodedFlows | None = None, on_epoch: Any = None, **changes: Any
) -> FitResult:
    model = toy.MODEL.model_copy(update={"dropout": 0.4}) if changes.pop("dropout", False) else toy.MODEL
    train = toy.rows(60) if train is None else train
    return fit(model, toy.training(**changes), toy.ENCODING, train, toy.rows(23, 9), folder, on_epoch=on_epoch)


def _losses(result: FitResult) -> list[dict[str, float]]:
    """The history without times."""
    return [{name: value for name, value in epoch.items() if name not in _TIMES} for epoch in result.history]


def test_fit__learns_a_separable_problem_and_saves_the_best_weights(toy: ModuleType, tmp_path: Path) -> None:
    result = _fit(toy, tmp_path, train=toy.rows(200), epochs=12)
    assert result.best_macro_f1 > 0.95
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2
    unseen = toy.rows(300, seed=5)
    predicted = Predictor.load(tmp_path).probabilities(unseen.sequences).argmax(axis=1)
    assert (predicted == unseen.label).mean() > 0.95
    assert json.loads((tmp_path / "history.json").read_text()) == result.history


def test_fit__learns_with_products_in_bfloat16_and_keeps_float32_weights(toy: ModuleType, tmp_path: Path) -> None:
    result = _fit(toy, tmp_path / "lower", train=toy.rows(200), epochs=12, precision="bfloat16")
    assert result.best_macro_f1 > 0.95
    assert _losses(result) != _losses(_fit(toy, tmp_path / "full", train=toy.rows(200), epochs=12, precision="float32"))
    stored = {name: each.numpy() for name, each in load_file(tmp_path / "lower/weights.safetensors").items()}
    _, weights = Learned.from_arrays(stored, toy.ENCODING)
    assert {each.dtype.name for each in weights.values()} == {"float32"}


def test_fit__bundle_holds_the_weights_of_the_best_epoch_not_of_the_last(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.9, 0.5, 0.4])
    monkeypatch.setattr(fit_module, "macro_f1", lambda _: next(scores))
    result = _fit(toy, tmp_path / "all", epochs=4, calibration="none")
    monkeypatch.undo()
    _fit(toy, tmp_path / "two", epochs=2, learning_rate=0.02)
    assert (result.best_epoch, result.best_macro_f1, result.stopped_early) == (2, 0.9, False)
    best, after_two = (load_file(tmp_path / "all/weights.safetensors"), _last_weights(tmp_path / "two"))
    assert all(torch.equal(best[name], after_two[name]) for name in after_two)


def test_fit__calibrates_the_saved_model_and_nothing_else(toy: ModuleType, tmp_path: Path) -> None:
    _fit(toy, tmp_path / "raw", epochs=2, calibration="none")
    _fit(toy, tmp_path / "fitted", epochs=2, calibration="classes")
    raw, fitted = (load_file(tmp_path / name / "weights.safetensors") for name in ("raw", "fitted"))
    changed = {name for name in raw if not torch.equal(raw[name], fitted[name])}
    assert changed == {"classifier.weight", "classifier.bias", "answers.probabilities"}
    rows = toy.rows(23, 9)  # the validation part
    likelihood = {
        name: np.log(
            Predictor.load(tmp_path / name).probabilities(rows.sequences)[np.arange(len(rows.label)), rows.label]
        )
        @ rows.num_flows
        for name in ("raw", "fitted")
    }
    assert likelihood["fitted"] > likelihood["raw"]


def test_fit__counts_training_sequences_if_enabled(toy: ModuleType, tmp_path: Path) -> None:
    train, validation = toy.rows(60), toy.rows(23, 9)
    for counted in (False, True):
        model = toy.MODEL.model_copy(update={"sequence_counts": counted})
        fit(model, toy.training(epochs=1), toy.ENCODING, train, validation, tmp_path / str(counted))
    alone, with_counts = (Predictor.load(tmp_path / name) for name in ("False", "True"))
    assert alone.learned.sequence_counts is None
    counts = with_counts.learned.sequence_counts
    assert counts is not None
    seen_NC = counts.lookup(train.sequences, 3)
    expected_NC = seen_NC + counts.strength * alone.probabilities(train.sequences)
    expected_NC /= expected_NC.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(with_counts.probabilities(train.sequences), expected_NC, rtol=1e-5)


def test_fit__keeps_answers_for_trainings_most_frequent_sequences(toy: ModuleType, tmp_path: Path) -> None:
    train = toy.rows(60)
    distinct = len(next(iter(distinct_sequences(train.sequences)[0].values())))
    each = (16 + 4 * 3) / 2**20  # of three classes, in MiB
    for megabytes, expected in ((0.0, 0), (5 * each, 5), (8.0, distinct)):
        _fit(toy, tmp_path / str(megabytes), train=train, epochs=1, kept_answers_mb=megabytes)
        predictor = Predictor.load(tmp_path / str(megabytes))
        kept = predictor.learned.answers
        assert (len(kept.keys) if kept else 0) == expected
        computed = predictor.probabilities(train.sequences, anew=True)
        np.testing.assert_array_equal(predictor.probabilities(train.sequences), computed)


def test_fit__other_kept_answers_do_not_train_again(toy: ModuleType, tmp_path: Path) -> None:
    _fit(toy, tmp_path, epochs=2)
    assert _fit(toy, tmp_path, epochs=2, kept_answers_mb=0.0).resumed_from == 2
    assert Predictor.load(tmp_path).learned.answers is None


def test_fit__trains_a_device_model_if_given_sets(toy: ModuleType, tmp_path: Path) -> None:
    train, validation = toy.rows(60), toy.rows(23, 9)
    unit = np.arange(60) % 4
    sets = FlowSets.of(train.sequences, unit, train.label, train.num_flows)
    fit(toy.MODEL, toy.training(epochs=1), toy.ENCODING, train, validation, tmp_path / "with", sets=sets)
    model = Predictor.load(tmp_path / "with").learned.devices
    assert model is not None
    answer = model.answer(sets.sequences, sets.flows)
    kind_B = model.kind_C[sets.label]
    assert answer.host.argmax(axis=1).tolist() == kind_B.tolist()
    own_B = answer.flows[np.arange(len(kind_B)), kind_B]
    assert own_B.tolist() == answer.flows.sum(axis=1).tolist()  # no flow is shown by two kinds
    assert own_B.max() > 0
    fit(toy.MODEL, toy.training(epochs=1), toy.ENCODING, train, validation, tmp_path / "without")
    assert Predictor.load(tmp_path / "without").learned.devices is None


def _last_weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "checkpoint").glob("*.safetensors")
    return {name[6:]: tensor for name, tensor in load_file(path).items() if name.startswith("model.")}


def test_fit__stops_after_patience_epochs_without_a_better_macro_f1(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.6, 0.5, 0.59, 1.0])
    monkeypatch.setattr(fit_module, "macro_f1", lambda _: next(scores))
    result = _fit(toy, tmp_path, epochs=30, patience=3)
    assert (len(result.history), result.best_epoch, result.stopped_early) == (5, 2, True)


def test_fit__losses_depend_on_the_seed_only(toy: ModuleType, tmp_path: Path) -> None:
    first, again, other = (
        _losses(_fit(toy, tmp_path / str(number), seed=seed, dropout=True)) for number, seed in enumerate([1, 1, 2])
    )
    assert first == again
    assert first != other


def test_fit__killed_after_any_epoch_resumes_to_the_same_result(toy: ModuleType, tmp_path: Path) -> None:
    undisturbed = _fit(toy, tmp_path / "undisturbed", epochs=4, dropout=True)

    def die(_: dict[str, float], epoch: int) -> None:
        raise KeyboardInterrupt(epoch)

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            _fit(toy, tmp_path / "killed", epochs=4, dropout=True, on_epoch=die)
    resumed = _fit(toy, tmp_path / "killed", epochs=4, dropout=True)
    assert resumed.resumed_from == 4
    assert _losses(resumed) == _losses(undisturbed)
    for name in ("weights.safetensors", "model.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.parametrize("killed_at", [0, 5])
def test_fit__one_cycle_raises_the_rate_then_lowers_it_and_resumes_in_it(
    killed_at: int, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, calls, original = [], [], torch.optim.Adam.step

    def step(self: torch.optim.Adam, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        rates.append(self.param_groups[0]["lr"])
        return original(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    asked = {"epochs": 5, "schedule": "one_cycle", "patience": 1, "checkpoint_minutes": 0.0}
    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            _fit(toy, tmp_path, **asked)
    result = _fit(toy, tmp_path, **asked)
    steps = 4 * 5  # 60 rows in batches of 16
    assert rates == pytest.approx([0.02 * one_cycle(step / steps) for step in range(steps)])
    assert rates.index(max(rates)) == 6
    assert rates[6] == pytest.approx(0.02)
    assert rates[0] < rates[1] < rates[5]
    assert rates[7] > rates[12] > rates[19] > 0
    assert len(result.history) == 5, "patience is not used"
    assert _fit(toy, tmp_path, **asked | {"epochs": 6}).resumed_from == 0, "the rates are others"


@pytest.mark.parametrize(("minutes", "resumed_at"), [(1000.0, (1, 0)), (0.0, (1, 1))])
def test_fit__killed_within_an_epoch_resumes_to_the_same_result(
    minutes: float, resumed_at: tuple[int, int], toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = _fit(toy, tmp_path / "undisturbed", dropout=True)
    steps, original = [], torch.optim.Adam.step

    def die_at_step_6(self: torch.optim.Adam, *rest: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", die_at_step_6)
    with pytest.raises(KeyboardInterrupt):
        _fit(toy, tmp_path / "killed", dropout=True, checkpoint_minutes=minutes)
    kept = json.loads((tmp_path / "killed" / "checkpoint" / "checkpoint.json").read_text())
    assert (kept["epoch"], kept["batch"]) == resumed_at
    resumed = _fit(toy, tmp_path / "killed", dropout=True, checkpoint_minutes=minutes)
    assert resumed.resumed_from == 1
    assert _losses(resumed) == _losses(undisturbed)
    for name in ("weights.safetensors", "model.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_fit__more_epochs_resume_from_the_end_to_the_same_result(toy: ModuleType, tmp_path: Path) -> None:
    _fit(toy, tmp_path / "short", epochs=2)
    longer = _fit(toy, tmp_path / "short", epochs=4)
    assert longer.resumed_from == 2
    assert _losses(longer) == _losses(_fit(toy, tmp_path / "long", epochs=4))


@pytest.mark.parametrize("change", [{"learning_rate": 0.01}, {"train": "other"}, {"dropout": True}, {"seed": 7}])
def test_fit__checkpoint_of_other_settings_or_rows_is_not_used_with_a_warning(
    toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    _fit(toy, tmp_path, epochs=1)
    changed = {"train": toy.rows(60, seed=4)} if "train" in change else change
    with caplog.at_level(logging.WARNING, "iotid"):
        assert _fit(toy, tmp_path, epochs=1, **changed).resumed_from == 0
    assert "other settings or another dataset" in caplog.text


@pytest.mark.parametrize("name", ["checkpoint.json", "epoch-00001-0000000.safetensors"])
def test_fit__damaged_checkpoint_is_not_used_with_a_warning(
    toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    _fit(toy, tmp_path, epochs=1)
    path = tmp_path / "checkpoint" / name
    path.write_bytes(path.read_bytes()[:40])
    with caplog.at_level(logging.WARNING, "iotid"):
        assert _fit(toy, tmp_path, epochs=1).resumed_from == 0
    assert "cannot be used" in caplog.text


def test_fit__keeps_one_checkpoint_and_no_partial_files(toy: ModuleType, tmp_path: Path) -> None:
    _fit(toy, tmp_path, epochs=3)
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "checkpoint.json", "epoch-00003-0000000.safetensors"
    ]  # fmt: skip


def test_fit__non_finite_loss_stops_before_the_step(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, original = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *rest: steps.append(1) or original(self, *rest))
    wanted = r"batch 2 in epoch 1 is nan; the weights were not updated; lower training\.learning_rate, now 0\.02"
    with toy.loss_not_finite_from_batch_2(), pytest.raises(TrainingError, match=wanted):
        _fit(toy, tmp_path)
    assert len(steps) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_fit__prepares_the_next_batch_before_it_waits_for_a_loss(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(owner: type, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, *rest: events.append(name) or original(self, *rest))

    noted(fit_module._Run, "_prepare")
    noted(Ranks, "total")
    noted(torch.optim.Adam, "step")
    _fit(
        toy, tmp_path, train=toy.rows(48), epochs=1
    )  # three batches; the first sum compares ranks, the last is validation's
    batch = ["_prepare", "total", "step"]
    assert events == ["total", "_prepare", *batch, *batch, "total", "step", "total"]


@pytest.mark.parametrize("fails", [False, True])
def test_fit__float32_is_not_rounded_to_tf32(toy: ModuleType, tmp_path: Path, fails: bool) -> None:
    found: list[str] = []
    rnn: Any = torch.backends.cudnn.rnn
    before = rnn.fp32_precision

    def note(*_: Any) -> None:
        found.append(rnn.fp32_precision)
        if fails:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        _fit(toy, tmp_path, epochs=1, on_epoch=note)
    assert found == ["ieee"]
    assert rnn.fp32_precision == before != "ieee"


def test_fit__row_counts_as_its_number_of_flows(toy: ModuleType, tmp_path: Path) -> None:
    once = toy.rows(30)
    copies = np.repeat(np.arange(30), once.num_flows)
    sequences = {name: ids_NM[copies] for name, ids_NM in once.sequences.items()}
    spread = EncodedFlows(sequences, once.label[copies], np.ones(len(copies), np.int64))
    weighted = _fit(toy, tmp_path / "weighted", train=once, batch_size=1000, repeat_weight=1)
    copied = _fit(toy, tmp_path / "copied", train=spread, batch_size=1000, repeat_weight=1)
    for one, other in zip(_losses(weighted), _losses(copied), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_fit__balanced_classes_weigh_the_same(toy: ModuleType) -> None:
    rows = toy.rows(50)
    weights_N = fit_module.row_weights(rows, toy.training(class_weight="balanced", repeat_weight=1))
    per_class = [weights_N[rows.label == label].sum() for label in range(3)]
    assert per_class == pytest.approx([rows.num_flows.sum() / 3] * 3)


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_fit__row_weight_is_a_power_of_its_number_of_flows(toy: ModuleType, power: float) -> None:
    rows = toy.rows(50)
    weights_N = fit_module.row_weights(rows, toy.training(class_weight="none", repeat_weight=power))
    np.testing.assert_allclose(weights_N, rows.num_flows**power)


def test_fit__reports_every_epoch(toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    with caplog.at_level(logging.INFO, "iotid"):
        result = _fit(toy, tmp_path, epochs=2, on_epoch=lambda metrics, epoch: logged.append((epoch, metrics)))
    assert logged == [(1, result.history[0]), (2, result.history[1])]
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", "calibrated on validation"]
    assert all("macro F1" in line and "flows/s" in line and "min left" in line for line in lines[:2])


def test_fit__empty_dataset_split_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train split has no rows"):
        _fit(toy, tmp_path, train=toy.rows(0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is needed")
def test_fit__missing_gpu_is_a_setting_error(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"training\.device"):
        _fit(toy, tmp_path, device="cuda")
