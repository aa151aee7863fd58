"""Training on any number of ranks, with the same result as on one.

Every rank holds all rows: after de-duplication a training part of one capture date is tens of megabytes. So each rank
draws the same global batches from (seed, epoch) alone and takes its own share of each.

Shape suffixes: N rows, B rows of a rank's share of a batch, C classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from iotid import config
from iotid.errors import DataError, SettingError, TrainingError
from iotid.evaluation.metrics import macro_f1
from iotid.model.arrays import Spec
from iotid.model.bundle import Learned, network_specs, save_bundle, vocabulary_sizes, write_atomically
from iotid.model.calibration import calibration, into_last_layer
from iotid.model.device import DeviceModel, kinds_of
from iotid.model.network.ensemble import AdaptiveEnsemble
from iotid.model.network.sequence_counts import SequenceCounts
from iotid.model.network.sequences import logits_by_batch, step_counts, tensors_of
from iotid.training.checkpoint import Checkpoint
from iotid.training.ranks import Ranks

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding, FlowSets

_log = logging.getLogger(__name__)

HISTORY = "history.json"
_CHECKPOINTS = "checkpoint"
_VALIDATION_PACKETS = 16384  # packets of a batch that is scored
# settings that do not change what a run learns in an epoch
EXCLUDED_FROM_FINGERPRINT = {"ranks", "epochs", "patience", "device", "threads", "checkpoint_minutes", "calibration"}
_MAX_SQUARE = 1e30  # of a gradient
_LOG_S = 30.0  # within a long epoch, seconds between two lines of progress


@dataclass(frozen=True)
class FitResult:
    """``history`` has one entry per epoch, from epoch 1: the metrics that ``fit`` passes to ``on_epoch``."""

    best_epoch: int
    best_macro_f1: float
    stopped_early: bool
    resumed_from: int
    history: list[dict[str, float]]


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
    """Learn from ``train`` until the macro F1 of ``validation`` no longer rises; keep the best weights.

    Rank 0 writes into ``folder``: the bundle of the best weights, calibrated on ``validation``, ``history.json``, and a
    checkpoint after each epoch and every ``checkpoint_minutes`` within one. A run of the same settings and rows goes on
    from it with the same result as if never stopped.
    From ``sets`` (needed on rank 0 alone) it learns the device model: which device kinds are behind an address.
    Ranks are those of torch.distributed if it was started. ``on_epoch`` is called on rank 0 after each epoch with
    ``loss``, ``validation_loss``, ``validation_macro_f1``, ``validation_accuracy``, ``rows_per_s``, ``flows_per_s``
    (a row counts as the flows that it stands for) and ``seconds``.

    Raises:
        TrainingError: the loss is no longer finite (on all ranks, before the step), or ranks hold different rows.
        DataError: a part has no rows.
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


class _Run:
    """Model, optimiser, rows and state of a run on one rank."""

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
        self._lower = _precision(settings, ranks.device)
        torch.manual_seed(_seed_of(settings.seed))
        self._model = AdaptiveEnsemble(model_settings, vocabulary_sizes(encoding), self._classes).to(ranks.device)
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=settings.learning_rate, fused=True)
        self._parallel = DistributedDataParallel(self._model) if ranks.world_size > 1 else self._model
        self.best = _copy(self._model.state_dict())

    @property
    def done(self) -> bool:
        waited = self.state.epoch - self.state.best_epoch
        return self.state.epoch >= self._settings.epochs or waited >= self._settings.patience

    def advance(self, save: Callable[[], None]) -> dict[str, float]:
        """Learn for the rest of an epoch and validate; the metrics are the same on every rank, but for the times.

        Rank 0 calls ``save`` every ``checkpoint_minutes``.
        """
        epoch, started = self.state.epoch + 1, time.monotonic()
        learned = self._learn(epoch, save)
        seconds = time.monotonic() - started
        metrics = {
            "loss": self.state.loss_sum / float(self._weights_N.sum()),
            **self._validate(),
            "rows_per_s": len(learned) / seconds,
            "flows_per_s": float(self._train.num_flows[learned].sum()) / seconds,
            "seconds": seconds,
        }
        self.state.history.append(metrics)
        self.state.epoch, self.state.batch, self.state.loss_sum = epoch, 0, 0.0
        best = self.state.history[self.state.best_epoch - 1]["validation_macro_f1"] if self.state.best_epoch else -1.0
        if metrics["validation_macro_f1"] > best:
            self.state.best_epoch = epoch
            self.best = _copy(self._model.state_dict())
        return metrics

    def _learn(self, epoch: int, save: Callable[[], None]) -> np.ndarray:
        """Train on the batches of the epoch that are not done yet; returns their rows. Adds to the state's losses."""
        settings, ranks, state = self._settings, self._ranks, self.state
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self._train.label))
        batches = [order[at : at + settings.batch_size] for at in range(0, len(order), settings.batch_size)]
        self._parallel.train()
        first, last_log, saved = state.batch, time.monotonic(), time.monotonic()
        for number, batch in enumerate(batches[first:], start=first + 1):
            torch.manual_seed(_seed_of(settings.seed, epoch, number, ranks.rank))  # of dropout
            # each step has the same size, however many flows its rows stand for: on real captures a constant divisor,
            # which would equal training on the copies in expectation, needed more epochs to the same macro F1
            weight = float(self._weights_N[batch].sum())
            self._optimiser.zero_grad(set_to_none=True)
            share = self._share_of_loss(batch, weight)
            loss = ranks.total(share).item()
            if not np.isfinite(loss):
                raise TrainingError(
                    f"training: the loss of batch {number} in epoch {epoch} is {loss}; no step was made with it. "
                    f"Lower training.learning_rate, now {settings.learning_rate}"
                )
            (share * ranks.world_size).backward()  # DDP takes the mean over the ranks; the shares' sum is wanted
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

    def _share_of_loss(self, batch: np.ndarray, weight: float) -> torch.Tensor:
        """What this rank's rows of the global batch add to the batch's weighted mean loss.

        A rank without rows computes one of weight 0, so that it still joins every exchange of gradients.
        """
        mine = batch[self._ranks.rank :: self._ranks.world_size]
        rows = mine if len(mine) else batch[:1]
        weights_B = self._weights_N[rows] / weight * (len(mine) > 0)
        with self._lower():
            logits_BC = self._parallel(tensors_of(self._train.sequences, rows, self._counts_N, self._ranks.device))
        labels_B = torch.from_numpy(self._train.label[rows]).to(self._ranks.device)
        losses_B = F.cross_entropy(logits_BC.float(), labels_B, reduction="none")
        return (losses_B * torch.from_numpy(weights_B.astype(np.float32)).to(self._ranks.device)).sum()

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Loss, macro F1 and accuracy of the validation part, each row counted as the flows it stands for."""
        self._model.eval()
        rows, classes = self._validation, self._classes
        counts_N = step_counts(rows.sequences, self._model.settings.padding)
        loss, confusion_CC = 0.0, np.zeros((classes, classes))
        own = slice(self._ranks.rank, None, self._ranks.world_size)
        with self._lower():
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
        """Write the bundle: the best weights, calibrated, and what else is learned. For the end of training."""
        rows = self._validation
        self._model.load_state_dict(self.best)
        self._model.eval()
        counts_N = step_counts(rows.sequences, self._model.settings.padding)
        logits_NC = np.empty((len(rows.label), self._classes))
        for batch, logits_BC in self._logits(rows, counts_N):
            logits_NC[batch] = logits_BC.numpy()
        factor, bias_C = calibration(logits_NC, rows.label, rows.num_flows, self._settings.calibration)
        answers_NC = softmax(factor * logits_NC + bias_C, axis=1)
        counts = (
            SequenceCounts.of(self._train).fitted(rows, answers_NC) if self._model.settings.sequence_counts else None
        )
        weights = into_last_layer(self.best, factor, bias_C)
        learned = Learned(counts, self._device_model(sets) if sets else None)
        save_bundle(folder, weights, self._model.settings, self._encoding, learned)
        weight = f"; the network's answer weighs as {counts.strength:.2g} flows of training" if counts else ""
        _log.info("calibrated on validation: temperature %.3f%s", 1 / factor, weight)

    def _device_model(self, sets: FlowSets) -> DeviceModel:
        _log.info("learning from %d sets of flows which device kinds are behind an address", len(sets))
        _, kind_C = kinds_of(self._encoding.labels, self._encoding.devices)
        return DeviceModel(kind_C).fit(sets, seed=self._settings.seed)

    def to_checkpoint(self) -> Checkpoint:
        """The state with all tensors that the run needs to go on."""
        moments = self._optimiser.state_dict()["state"]
        self.state.tensors = {
            **{f"model.{name}": tensor for name, tensor in self._model.state_dict().items()},
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{f"adam.{i}.{name}": tensor for i, own in moments.items() for name, tensor in own.items()},
        }
        return self.state

    def _specs(self) -> dict[str, Spec]:
        """What the tensors of ``keep`` are."""
        network = network_specs({name: tuple(each.shape) for name, each in self._model.state_dict().items()})
        specs = {f"{part}.{name}": spec for part in ("model", "best") for name, spec in network.items()}
        for number, parameter in enumerate(self._model.parameters()):
            shape = tuple(parameter.shape)
            specs |= {
                f"adam.{number}.step": Spec("F32", (), 1),
                f"adam.{number}.exp_avg": Spec("F32", shape),
                f"adam.{number}.exp_avg_sq": Spec("F32", shape, 0, _MAX_SQUARE),
            }
        return specs

    def restore(self, folder: Path) -> None:
        """Go on from the folder's checkpoint; rank 0 reads it and sends it to the others."""
        found = (b"", b"")
        if self._ranks.is_rank_zero:
            found = Checkpoint.load(folder, self.state.fingerprint, self._specs()).to_bytes()
        description, tensors = (self._ranks.broadcast(part) for part in found)
        self.state = Checkpoint.from_bytes(description, tensors)
        if not self.state.tensors:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, tensor in self.state.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self._model.load_state_dict(parts["model"])
        self.best = parts["best"]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts["adam"].items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.state.tensors = {}
        if self._ranks.is_rank_zero:
            done = f"epoch {self.state.epoch} and {self.state.batch} batches"
            _log.info("going on after %s from the checkpoint in %s", done, folder)


def row_weights(rows: EncodedFlows, settings: config.Training) -> np.ndarray:
    """What each row counts, float64 (N,), with the same sum whatever ``class_weight``."""
    weights_N = rows.num_flows.astype(np.float64) ** settings.repeat_weight
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[settings.class_weight]
    scaled_N = weights_N / np.bincount(rows.label, weights=weights_N)[rows.label] ** power
    return np.asarray(scaled_N * (weights_N.sum() / scaled_N.sum()))


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def find_device(settings: config.Training) -> torch.device:
    """The device that this process trains on; raises a SettingError if it must be a GPU and there is none."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingError("training.device: is cuda, but torch finds no GPU here; set auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _precision(settings: config.Training, device: torch.device) -> Callable[[], torch.autocast]:
    """The context of matrix products; weights, their gradients and Adam are float32 throughout."""
    if settings.precision == "auto":
        if device.type == "cuda":
            lower = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # torch has no public name for it, and bfloat16 without these instructions is slower than float32
            lower = torch.cpu._is_avx512_bf16_supported()
    else:
        lower = settings.precision == "bfloat16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=lower)


def _check_rows(train: EncodedFlows, validation: EncodedFlows) -> None:
    for name, rows in (("train", train), ("validation", validation)):
        if not len(rows.label):
            raise DataError(f"dataset: the {name} part has no rows; write it with more flows or another share")


def _fingerprint(
    model: config.Model,
    settings: config.Training,
    encoding: Encoding,
    train: EncodedFlows,
    validation: EncodedFlows,
    world_size: int,
) -> str:
    """Names all that the result depends on, except how long it trains and how fast."""
    content = hashlib.sha256()
    for array in _arrays(train, validation):
        content.update(np.ascontiguousarray(array).data)
    learned_with = settings.model_dump(mode="json", exclude=EXCLUDED_FROM_FINGERPRINT)
    extra = {"training": learned_with, "world": world_size, "encoding": encoding.to_json(), "rows": content.hexdigest()}
    return config.settings_hash(model, extra=extra)


def _arrays(*parts: EncodedFlows) -> Iterator[np.ndarray]:
    for rows in parts:
        yield from rows.sequences.values()
        yield from (rows.label, rows.num_flows)


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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
