"""The training loop, on any number of ranks with the same result as on one.

Every rank holds all rows: after de-duplication the training split of one capture date is tens of megabytes. So each
rank draws the same global batches from (seed, epoch) alone and processes its own share of each.

Shape suffixes: N rows, B rows of a rank's share of a batch, C classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from iotid import config
from iotid.errors import DataError, SettingError, TrainingError
from iotid.evaluation.metrics import macro_f1
from iotid.model.arrays import Spec
from iotid.model.bundle import Learned, Predictor, network_specs, save_bundle, vocabulary_sizes, write_atomically
from iotid.model.calibration import apply_calibration, calibration
from iotid.model.device import DeviceModel, kinds_of
from iotid.model.network.ensemble import AdaptiveEnsemble
from iotid.model.network.kept_answers import KeptAnswers
from iotid.model.network.sequence_counts import SequenceCounts
from iotid.model.network.sequences import logits_by_batch, prepare, step_counts, to_device
from iotid.training.checkpoint import Checkpoint
from iotid.training.ranks import Ranks

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding, FlowSets

_log = logging.getLogger(__name__)

HISTORY = "history.json"
_CHECKPOINTS = "checkpoint"
_VALIDATION_PACKETS = 16384  # packets of a validation batch
# settings that do not change the result of an epoch
EXCLUDED_FROM_FINGERPRINT = {
    *("ranks", "epochs", "patience", "device", "threads", "checkpoint_minutes", "calibration", "kept_answers_mb")
}
_MAX_SQUARED_GRADIENT = 1e30  # bound on Adam's second moments in a checkpoint
_LOG_S = 30.0  # seconds between progress lines within an epoch
_RISE = 0.3  # of all steps: the share with a rising learning rate
_LEAST = 0.01


@dataclass(frozen=True)
class FitResult:
    """``history`` has one entry per epoch, from epoch 1: the metrics that ``fit`` passes to ``on_epoch``."""

    best_epoch: int
    best_macro_f1: float
    stopped_early: bool
    resumed_from: int
    history: list[dict[str, float]]


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Products of LSTMs that are float32 are so on GPUs too: by default cuDNN rounds their factors to TF32."""
    rnn: Any = torch.backends.cudnn.rnn  # its types lack the attribute
    before = rnn.fp32_precision
    rnn.fp32_precision = "ieee"
    try:
        yield
    finally:
        rnn.fp32_precision = before


@exact_float32()
def fit(
    model_settings: config.Model,
    settings: config.Training,
    encoding: Encoding,
    train: EncodedFlows,
    validation: EncodedFlows,
    folder: str | Path,
    *,
    sets: FlowSets | None = None,
    on_epoch: Callable[[dict[str, float], int], None] | None = None,
) -> FitResult:
    """Train on ``train`` with early stopping on the macro F1 of ``validation``; keep the best weights.

    Rank 0 writes into ``folder``: the bundle of the best weights, calibrated on ``validation``, ``history.json``, and a
    checkpoint after each epoch and every ``checkpoint_minutes`` within one. A run of the same settings and rows resumes
    from it with the same result as without interruption.
    From ``sets`` (needed on rank 0 only) it trains the device model: which device kinds are behind an address.
    Ranks are those of torch.distributed if initialised. ``on_epoch`` is called on rank 0 after each epoch with
    ``loss``, ``validation_loss``, ``validation_macro_f1``, ``validation_accuracy``, ``rows_per_s``, ``flows_per_s``
    (a row counts as the flows that it represents) and ``seconds``.

    Raises:
        TrainingError: the loss is not finite (on all ranks, before the optimiser step), or ranks hold different rows.
        DataError: a dataset split has no rows.
    """
    _check_rows(train, validation)
    ranks = Ranks.here(find_device(settings))
    run = _Run(model_settings, settings, encoding, train, validation, ranks)
    folder = Path(folder)
    run.restore(folder / _CHECKPOINTS)
    resumed_from = run.state.epoch
    started = time.monotonic()

    def save() -> None:
        run.to_checkpoint().save(folder / _CHECKPOINTS)

    while not run.done:
        metrics = run.advance(save)
        if ranks.is_rank_zero:
            save()
            _log.info("%s", _progress(run.state, settings, metrics, started, resumed_from))
            if on_epoch is not None:
                on_epoch(metrics, run.state.epoch)
    state = run.state
    if ranks.is_rank_zero:
        run.finish(folder, sets)
        write_atomically(folder / HISTORY, (json.dumps(state.history, indent=1) + "\n").encode())
    best_macro_f1 = state.history[state.best_epoch - 1]["validation_macro_f1"]
    return FitResult(state.best_epoch, best_macro_f1, state.epoch < settings.epochs, resumed_from, state.history)


class _Batch(NamedTuple):
    """Rows of one rank, on its device.

    ``inputs``: the network's arguments; ``labels``: int64 (B,); ``weights``: float32 (B,) shares of the global batch's
    weight, ``weight``.
    """

    inputs: tuple[dict[str, torch.Tensor], torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor
    weight: float


def one_cycle(share_done: float) -> float:
    """The learning rate's share of its maximum when this share of all steps is done: it rises in a straight line, then
    falls like a cosine (Smith and Topin 2019)."""
    if share_done < _RISE:
        return (share_done + _LEAST) / (_RISE + _LEAST)
    return 0.5 * (1 + math.cos(math.pi * (share_done - _RISE) / (1 - _RISE)))


class _Run:
    """Model, optimiser, rows and training state on one rank."""

    def __init__(
        self,
        model_settings: config.Model,
        settings: config.Training,
        encoding: Encoding,
        train: EncodedFlows,
        validation: EncodedFlows,
        ranks: Ranks,
    ) -> None:
        self._settings, self._ranks, self._train, self._validation = settings, ranks, train, validation
        self._encoding, self._classes = encoding, len(encoding.labels)
        self._weights_N = row_weights(train, settings)
        self._counts_N = step_counts(train.sequences, model_settings.padding)
        self.state = Checkpoint(_fingerprint(model_settings, settings, encoding, train, validation, ranks.world_size))
        ranks.check_fingerprint(self.state.fingerprint)
        self._autocast = _precision(settings, ranks.device)
        torch.manual_seed(_seed_of(settings.seed))
        self._model = AdaptiveEnsemble(model_settings, vocabulary_sizes(encoding), self._classes).to(ranks.device)
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=settings.learning_rate, fused=True)
        self._parallel = DistributedDataParallel(self._model) if ranks.world_size > 1 else self._model
        self.best = _cpu_copy(self._model.state_dict())

    @property
    def done(self) -> bool:
        epochs_without_gain = self.state.epoch - self.state.best_epoch
        is_stopped = epochs_without_gain >= self._settings.patience and self._settings.schedule == "constant"
        return self.state.epoch >= self._settings.epochs or is_stopped

    def advance(self, save: Callable[[], None]) -> dict[str, float]:
        """Train for the rest of an epoch and validate. Returns metrics; except for times, ranks get the same.

        Rank 0 calls ``save`` every ``checkpoint_minutes``.
        """
        epoch, started = self.state.epoch + 1, time.monotonic()
        rows = self._learn(epoch, save)
        seconds = time.monotonic() - started
        metrics = {
            "loss": self.state.loss_sum / float(self._weights_N.sum()),
            **self._validate(),
            "rows_per_s": len(rows) / seconds,
            "flows_per_s": float(self._train.num_flows[rows].sum()) / seconds,
            "seconds": seconds,
        }
        self.state.history.append(metrics)
        self.state.epoch, self.state.batch, self.state.loss_sum = epoch, 0, 0.0
        best = self.state.history[self.state.best_epoch - 1]["validation_macro_f1"] if self.state.best_epoch else -1.0
        if metrics["validation_macro_f1"] > best:
            self.state.best_epoch = epoch
            self.best = _cpu_copy(self._model.state_dict())
        return metrics

    def _learn(self, epoch: int, save: Callable[[], None]) -> np.ndarray:
        """Train on the remaining batches of the epoch. Returns their rows; adds to ``state.loss_sum``."""
        settings, ranks, state = self._settings, self._ranks, self.state
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self._train.label))
        batches = [order[at : at + settings.batch_size] for at in range(0, len(order), settings.batch_size)]
        self._parallel.train()
        first, last_log, saved = state.batch, time.monotonic(), time.monotonic()
        prepared, number = map(self._prepare, batches[first:]), first
        given = next(prepared, None)
        while given is not None:
            number += 1
            torch.manual_seed(_seed_of(settings.seed, epoch, number, ranks.rank))  # of dropout
            if settings.schedule == "one_cycle":
                share_done = (epoch - 1 + (number - 1) / len(batches)) / settings.epochs
                for group in self._optimiser.param_groups:
                    group["lr"] = settings.learning_rate * one_cycle(share_done)
            self._optimiser.zero_grad(set_to_none=True)
            share, weight = self._share_of_loss(given), given.weight
            (share * ranks.world_size).backward()  # DDP averages gradients over ranks; this makes it a sum
            # a GPU still computes: the next batch is prepared meanwhile, and only then is the loss waited for
            given = next(prepared, None)
            loss = ranks.total(share).item()
            if not np.isfinite(loss):
                raise TrainingError(
                    f"training: the loss of batch {number} in epoch {epoch} is {loss}; the weights were not updated; "
                    f"lower training.learning_rate, now {settings.learning_rate}"
                )
            self._optimiser.step()
            state.loss_sum += loss * weight
            state.batch = number
            if (
                ranks.is_rank_zero
                and number < len(batches)
                and time.monotonic() - saved >= 60 * settings.checkpoint_minutes
            ):
                save()
                saved = time.monotonic()
            if ranks.is_rank_zero and time.monotonic() - last_log > _LOG_S:
                last_log = time.monotonic()
                _log.info("epoch %d: %d of %d batches", epoch, number, len(batches))
        return np.concatenate(batches[first:]) if first < len(batches) else order[:0]

    def _prepare(self, batch: np.ndarray) -> _Batch:
        """This rank's share of a global batch, on the device; copies to a GPU are not waited for.

        A rank without rows computes one row with weight 0, so that it joins every all-reduce of gradients.
        """
        # each batch's weights are normalised to 1: on real captures a constant divisor, which would equal training
        # on the copies in expectation, needed more epochs to reach the same macro F1
        weight = float(self._weights_N[batch].sum())
        mine = batch[self._ranks.rank :: self._ranks.world_size]
        rows = mine if len(mine) else batch[:1]
        weights_B = (self._weights_N[rows] / weight * (len(mine) > 0)).astype(np.float32)
        device = self._ranks.device
        inputs = prepare(self._train.sequences, rows, self._counts_N, device)
        return _Batch(inputs, to_device(self._train.label[rows], device), to_device(weights_B, device), weight)

    def _share_of_loss(self, given: _Batch) -> torch.Tensor:
        """The contribution of this rank's rows to the weighted mean loss of the global batch."""
        with self._autocast():
            logits_BC = self._parallel(*given.inputs)
        return (F.cross_entropy(logits_BC.float(), given.labels, reduction="none") * given.weights).sum()

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Loss, macro F1 and accuracy on the validation split; a row counts as the flows that it represents."""
        self._model.eval()
        rows, classes = self._validation, self._classes
        counts_N = step_counts(rows.sequences, self._model.settings.padding)
        loss, confusion_CC = 0.0, np.zeros((classes, classes))
        own = slice(self._ranks.rank, None, self._ranks.world_size)
        with self._autocast():
            for batch, logits_BC in self._logits(rows, counts_N, own):
                labels_B, flows_B = rows.label[batch], rows.num_flows[batch].astype(np.float64)
                losses_B = F.cross_entropy(logits_BC.float(), torch.from_numpy(labels_B), reduction="none")
                loss += float((losses_B * torch.from_numpy(flows_B)).sum())
                np.add.at(confusion_CC, (labels_B, logits_BC.float().argmax(dim=1).numpy()), flows_B)
        sums = self._ranks.total(torch.from_numpy(np.append(confusion_CC, loss))).numpy()
        if not np.isfinite(sums).all():
            raise TrainingError(
                f"training: the validation loss is {sums[-1]} after epoch {self.state.epoch + 1}; "
                f"lower training.learning_rate, now {self._settings.learning_rate}"
            )
        confusion_CC = sums[:-1].reshape(classes, classes)
        flows = confusion_CC.sum()
        return {
            "validation_loss": float(sums[-1] / flows),
            "validation_macro_f1": macro_f1(confusion_CC),
            "validation_accuracy": float(np.trace(confusion_CC) / flows),
        }

    def _logits(
        self, rows: EncodedFlows, counts_N: np.ndarray, batches: slice = slice(None)
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        device = self._ranks.device
        return logits_by_batch(
            self._model, rows.sequences, counts_N, _VALIDATION_PACKETS, device=device, batches=batches
        )

    @torch.inference_mode()
    def finish(self, folder: Path, sets: FlowSets | None) -> None:
        """Write the bundle: the best weights, calibrated, sequence counts, the device model and the answers kept."""
        rows = self._validation
        self._model.load_state_dict(self.best)
        self._model.eval()
        counts_N = step_counts(rows.sequences, self._model.settings.padding)
        logits_NC = np.empty((len(rows.label), self._classes))
        for batch, logits_BC in self._logits(rows, counts_N):
            logits_NC[batch] = logits_BC.numpy()
        factor, bias_C = calibration(logits_NC, rows.label, rows.num_flows, self._settings.calibration)
        probabilities_NC = softmax(factor * logits_NC + bias_C, axis=1)
        counts = (
            SequenceCounts.of(self._train).fitted(rows, probabilities_NC)
            if self._model.settings.sequence_counts
            else None
        )
        weights = apply_calibration(self.best, factor, bias_C)
        answers = self._answers(weights)
        learned = Learned(counts, self._device_model(sets) if sets else None, answers)
        save_bundle(folder, weights, self._model.settings, self._encoding, learned)
        weight = f"; the network weighs as much as {counts.strength:.2g} training flows" if counts else ""
        kept = f"; {len(answers.keys):,} of its answers are kept" if answers else ""
        _log.info("calibrated on validation: temperature %.3f%s%s", 1 / factor, weight, kept)

    def _answers(self, weights: Mapping[str, torch.Tensor]) -> KeptAnswers | None:
        """The network's answers for training's sequences, computed as a prediction computes them: on the CPU."""
        if not self._settings.kept_answers_mb:
            return None
        network = AdaptiveEnsemble(self._model.settings, vocabulary_sizes(self._encoding), self._classes)
        network.load_state_dict(weights)
        max_bytes = int(self._settings.kept_answers_mb * 2**20)
        return Predictor(network, self._encoding).answers_to_keep(self._train, max_bytes)

    def _device_model(self, sets: FlowSets) -> DeviceModel:
        _, kind_C = kinds_of(self._encoding.labels, self._encoding.devices)
        model = DeviceModel(kind_C).fit(sets, seed=self._settings.seed)
        recordings = len(np.unique(sets.recording))
        _log.info("fitted the device-level model on %d recording%s", recordings, "s" * (recordings != 1))
        return model

    def to_checkpoint(self) -> Checkpoint:
        """The state with all tensors that resuming needs."""
        moments = self._optimiser.state_dict()["state"]
        self.state.tensors = {
            **{f"model.{name}": tensor for name, tensor in self._model.state_dict().items()},
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{f"adam.{i}.{name}": tensor for i, own in moments.items() for name, tensor in own.items()},
        }
        return self.state

    def _specs(self) -> dict[str, Spec]:
        """Types and shapes of the tensors of ``to_checkpoint``."""
        network = network_specs({name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()})
        specs = {f"{part}.{name}": spec for part in ("model", "best") for name, spec in network.items()}
        for number, parameter in enumerate(self._model.parameters()):
            shape = tuple(parameter.shape)
            specs |= {
                f"adam.{number}.step": Spec("F32", (), 1),
                f"adam.{number}.exp_avg": Spec("F32", shape),
                f"adam.{number}.exp_avg_sq": Spec("F32", shape, 0, _MAX_SQUARED_GRADIENT),
            }
        return specs

    def restore(self, folder: Path) -> None:
        """Resume from the folder's checkpoint, if any; rank 0 reads and broadcasts it."""
        found = (b"", b"")
        if self._ranks.is_rank_zero:
            found = Checkpoint.load(folder, self.state.fingerprint, self._specs()).to_bytes()
        description, tensors = (self._ranks.broadcast(part) for part in found)
        self.state = Checkpoint.from_bytes(description, tensors)
        if not self.state.tensors:
            return
        states: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, tensor in self.state.tensors.items():
            part, _, rest = name.partition(".")
            states[part][rest] = tensor
        self._model.load_state_dict(states["model"])
        self.best = states["best"]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in states["adam"].items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.state.tensors = {}
        if self._ranks.is_rank_zero:
            _log.info("resuming after epoch %d, batch %d from %s", self.state.epoch, self.state.batch, folder)


def row_weights(rows: EncodedFlows, settings: config.Training) -> np.ndarray:
    """Training weight of each row, float64 (N,); the sum does not depend on ``class_weight``."""
    weights_N = rows.num_flows.astype(np.float64) ** settings.repeat_weight
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[settings.class_weight]
    scaled_N = weights_N / np.bincount(rows.label, weights=weights_N)[rows.label] ** power
    return np.asarray(scaled_N * (weights_N.sum() / scaled_N.sum()))


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def find_device(settings: config.Training) -> torch.device:
    """The device that this process trains on; raises a SettingError if ``device`` is cuda and there is no GPU."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingError("training.device: is cuda, but torch finds no GPU here; set auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _precision(settings: config.Training, device: torch.device) -> Callable[[], torch.autocast]:
    """The autocast context of matrix products; weights, gradients and Adam's state stay float32."""
    if settings.precision == "auto":
        if device.type == "cuda":
            enabled = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # no public torch function; without these instructions bfloat16 is slower than float32
            enabled = torch.cpu._is_avx512_bf16_supported()
    else:
        enabled = settings.precision == "bfloat16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _check_rows(train: EncodedFlows, validation: EncodedFlows) -> None:
    for name, rows in (("train", train), ("validation", validation)):
        if not len(rows.label):
            raise DataError(f"dataset: the {name} split has no rows; write it with more flows or another share")


def _fingerprint(
    model: config.Model,
    settings: config.Training,
    encoding: Encoding,
    train: EncodedFlows,
    validation: EncodedFlows,
    world_size: int,
) -> str:
    """Identifies everything that the result depends on, except the training's length and speed."""
    content = hashlib.sha256()
    for array in _arrays(train, validation):
        content.update(np.ascontiguousarray(array).data)
    # with a falling learning rate the number of epochs determines all of them
    excluded = EXCLUDED_FROM_FINGERPRINT - ({"epochs"} if settings.schedule == "one_cycle" else set())
    included = settings.model_dump(mode="json", exclude=excluded)
    extra = {"training": included, "world": world_size, "encoding": encoding.to_json(), "rows": content.hexdigest()}
    return config.settings_hash(model, extra=extra)


def _arrays(*splits: EncodedFlows) -> Iterator[np.ndarray]:
    for rows in splits:
        yield from rows.sequences.values()
        yield from (rows.label, rows.num_flows)


def _cpu_copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _progress(
    state: Checkpoint, settings: config.Training, metrics: dict[str, float], started: float, resumed_from: int
) -> str:
    seconds_per_epoch = (time.monotonic() - started) / (state.epoch - resumed_from)
    left = seconds_per_epoch * (settings.epochs - state.epoch)
    best = "best" if state.best_epoch == state.epoch else f"best was {state.best_epoch}"
    return (
        f"epoch {state.epoch}/{settings.epochs}: loss {metrics['loss']:.4f}, "
        f"validation macro F1 {metrics['validation_macro_f1']:.4f} ({best}), "
        f"{metrics['flows_per_s']:,.0f} flows/s, at most {left / 60:.1f} min left"
    )
