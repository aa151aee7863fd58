"""The same systems under several protocols: a score says little without how its test part was chosen.

``random_flow`` (the paper's), ``random_unique``, ``by_capture`` and ``by_time`` are the dataset's own protocols;
``capture_folds`` tests every capture once, in folds that cut none; ``site:NAME`` learns from all other sites and is
tested on that one, over the labels that both have. Under each, systems answer for flows and, by vote, for whole
captures of a device: the sum of the logarithms of its flows' probabilities, as in naive Bayes.

Shape suffixes: N flows, R pairs of a row and a capture of a device, U captures of a device, C labels, G coarse labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import baselines, config
from iotid.baselines.capture_bag import CaptureBag
from iotid.dataset import Encoding, LabelledFlows
from iotid.dataset.memory import Part
from iotid.dataset.partition import PARTS
from iotid.errors import DataError, SettingError
from iotid.evaluation import leakage, metrics
from iotid.evaluation.schema import ClassScore, Score

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

log = logging.getLogger(__name__)

OF_DATASET = ("random_flow", "random_unique", "by_capture", "by_time")
FOLDS, SITE = "capture_folds", "site:"
ENSEMBLE, BAG = "ensemble", "capture_bag"
_LEAST = 1e-6  # what a probability counts at least in a vote: one flow alone must not rule a class out


class SystemScores(TypedDict):
    """What one system reached. ``coarse``: with labels of one vendor and type merged; ``captures``: by vote.

    What is told of flows is null or empty for a system that names captures only.
    """

    flows: dict[str, Score] | None
    flows_coarse: dict[str, Score] | None
    captures: dict[str, Score]
    captures_coarse: dict[str, Score]
    ceiling_share: float | None
    expected_calibration_error: float | None
    per_class: list[ClassScore]


class Outcome(TypedDict):
    """One protocol. ``seen``: share of test flows whose sequences are in training; ``leakage``: with their label.

    ``flows``: of each part; with folds, the test flows of all, and the means of the others. Shares are of test flows.
    """

    protocol: str
    flows: dict[str, int]
    captures: int
    labels: list[str]
    coarse_labels: list[str]
    floor: float
    seen: float
    leakage: float
    ceiling: float
    systems: dict[str, SystemScores]


class _Tested(NamedTuple):
    """A test part: label, capture of a device and flows of each pair (R,), and each system's answers (R, C)."""

    label: NDArray[np.int64]
    unit: NDArray[np.int64]
    flows: NDArray[np.int64]
    answers: dict[str, NDArray[np.float64]]
    shares: dict[str, float]
    bag: tuple[NDArray[np.int64], NDArray[np.int64]]  # label of each capture (U,), and what CaptureBag says it is


@dataclass(frozen=True)
class Study:
    """The ensemble, trained anew below ``folder`` for every test part, and the rivals of ``evaluation.baselines``."""

    settings: config.Settings
    folder: Path

    def run(self, flows: LabelledFlows, protocol: str) -> Outcome:
        """Train and test under ``protocol``.

        Raises:
            SettingError: there is no such protocol or site.
            DataError: the protocol leaves no flows to learn from, to choose by or to test on.
        """
        tested, counted = [], np.zeros(len(PARTS), np.int64)
        for number, part_N in enumerate(self._splits(flows, protocol), start=1):
            counted += np.bincount(part_N[part_N >= 0], minlength=len(PARTS))
            log.info("%s: part %d", protocol, number)
            tested.append(self._test(flows, part_N, f"{protocol.replace(':', '-')}-{number:02}"))
        *others, test = counted.tolist()
        sizes = [*(flows // len(tested) for flows in others), test]
        return self._outcome(flows, protocol, tested, dict(zip(PARTS, sizes, strict=True)))

    def _splits(self, flows: LabelledFlows, protocol: str) -> Iterator[NDArray[np.int8]]:
        if protocol in OF_DATASET:
            yield flows.under(protocol).parts()
        elif protocol == FOLDS:
            folds = self.settings.evaluation.folds
            fold_N = flows.folds(folds)
            for fold in range(folds):
                part_N = np.zeros(len(fold_N), np.int8)
                part_N[fold_N == (fold + 1) % folds] = PARTS.index("validation")
                part_N[fold_N == fold] = PARTS.index("test")
                yield part_N
        elif protocol.startswith(SITE):
            yield _other_site(flows, protocol.removeprefix(SITE))
        else:
            known = ", ".join((*OF_DATASET, FOLDS, SITE + "NAME"))
            raise SettingError(f"evaluation.protocols: {protocol!r} is not known; choose from {known}")

    def _test(self, flows: LabelledFlows, part_N: NDArray[np.int8], name: str) -> _Tested:
        encoding, parts = flows.dataset(part_N)
        for part in PARTS:
            if part not in parts:
                raise DataError(f"{name}: no flow is in the {part} part; give more captures, or another protocol")
        test = parts["test"]
        answers = self._answer(encoding, parts, name)
        unit_P = _units(flows)[test.flow]
        (row_R, unit_R), flows_R = np.unique(np.stack([test.row_of_flow, unit_P]), axis=1, return_counts=True)
        train = parts["train"].rows
        shares = {
            "floor": leakage.floor(test.rows),
            "seen": leakage.seen(train, test.rows),
            "leakage": leakage.leakage(train, test.rows),
            "ceiling": leakage.ceiling(test.rows),
        }
        spread = {system: answers_NC[row_R] for system, answers_NC in answers.items()}
        bag = _by_bag(flows, parts, self.settings.evaluation.seed)
        return _Tested(test.rows.label[row_R], unit_R, flows_R, spread, shares, bag)

    def _answer(self, encoding: Encoding, parts: dict[str, Part], name: str) -> dict[str, NDArray[np.float64]]:
        from iotid.model import Predictor
        from iotid.training.fit import fit

        train, validation, test = (parts[part].rows for part in PARTS)
        settings, folder = self.settings, self.folder / name
        fit(settings.model, settings.training, encoding, train, validation, folder)
        answers = {ENSEMBLE: Predictor.load(folder).probabilities(test.sequences).astype(np.float64)}
        for rival in settings.evaluation.baselines:
            fitted = baselines.create(rival, encoding, settings.evaluation.seed).fit(train, len(encoding.labels))
            answers[rival] = fitted.probabilities(test.sequences)
        return answers

    def _outcome(
        self, flows: LabelledFlows, protocol: str, tested: Sequence[_Tested], sizes: dict[str, int]
    ) -> Outcome:
        label_R, unit_R, flows_R = (
            np.concatenate([getattr(each, name) for each in tested]) for name in ("label", "unit", "flows")
        )
        of_fold = np.array([each.flows.sum() for each in tested], np.float64)
        shares = {
            name: float(np.average([each.shares[name] for each in tested], weights=of_fold))
            for name in tested[0].shares
        }
        coarse_labels, coarse_C = _coarse(flows)
        systems: dict[str, SystemScores] = {}
        for system in tested[0].answers:
            answers_RC = np.concatenate([each.answers[system] for each in tested])
            named_R = answers_RC.argmax(axis=1)
            label_U, named_U = _vote(label_R, unit_R, flows_R, answers_RC)
            once_U = np.ones(len(label_U), np.int64)
            bins = metrics.reliability(answers_RC.max(axis=1), named_R == label_R, flows_R)
            fine = metrics.confusion_matrix(label_R, named_R, flows_R, len(flows.labels))
            accuracy = float(np.trace(fine) / fine.sum())
            systems[system] = {
                "flows": self._scores(label_R, named_R, flows_R),
                "flows_coarse": self._scores(coarse_C[label_R], coarse_C[named_R], flows_R),
                "captures": self._scores(label_U, named_U, once_U),
                "captures_coarse": self._scores(coarse_C[label_U], coarse_C[named_U], once_U),
                "ceiling_share": accuracy / shares["ceiling"],
                "expected_calibration_error": metrics.expected_calibration_error(bins),
                "per_class": metrics.per_class(fine, flows.labels),
            }
        label_U, named_U = (np.concatenate([each.bag[number] for each in tested]) for number in range(2))
        once_U = np.ones(len(label_U), np.int64)
        systems[BAG] = {
            "flows": None,
            "flows_coarse": None,
            "captures": self._scores(label_U, named_U, once_U),
            "captures_coarse": self._scores(coarse_C[label_U], coarse_C[named_U], once_U),
            "ceiling_share": None,
            "expected_calibration_error": None,
            "per_class": [],
        }
        return {
            "protocol": protocol,
            "flows": sizes,
            "captures": len(np.unique(unit_R)),
            "labels": list(flows.labels),
            "coarse_labels": coarse_labels,
            "floor": shares["floor"],
            "seen": shares["seen"],
            "leakage": shares["leakage"],
            "ceiling": shares["ceiling"],
            "systems": systems,
        }

    def _scores(
        self, label: NDArray[np.int64], named: NDArray[np.int64], weight: NDArray[np.int64]
    ) -> dict[str, Score]:
        settings = self.settings.evaluation
        confusion = metrics.confusion_matrix(label, named, weight, int(max(label.max(), named.max())) + 1)
        return metrics.scores(confusion, settings.bootstrap, settings.seed)


def _other_site(flows: LabelledFlows, site: str) -> NDArray[np.int8]:
    """All flows of the site as the test part; of all others, a seeded tenth or so for validation, the rest to learn."""
    there_N = np.asarray(pc.equal(flows.flows["site"], site))
    if not there_N.any() or there_N.all():
        raise SettingError(
            f"evaluation.protocols: {SITE}{site} needs flows of {site} and of another site; name both with --site"
        )
    part_N = flows.under("random_flow").parts()
    part_N[part_N == PARTS.index("test")] = PARTS.index("train")
    part_N[there_N] = PARTS.index("test")
    shared = np.intersect1d(flows.label[there_N], flows.label[~there_N])
    part_N[~np.isin(flows.label, shared)] = -1
    return part_N


def _coarse(flows: LabelledFlows) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the coarse labels (G,), and which of them each label is (C,): one for a vendor and type, where known."""
    alike = flows.devices.alike(flows.settings.label, flows.labels)
    names = [alike[label] for label in flows.labels]
    coarse, which_C = np.unique(names, return_inverse=True)
    return coarse.tolist(), which_C.astype(np.int64)


def _units(flows: LabelledFlows) -> NDArray[np.int64]:
    """(N,) a number for each capture of a device."""
    return flows.capture * len(flows.labels) + flows.label


def _by_bag(flows: LabelledFlows, parts: dict[str, Part], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label (U,) of each of the test part's captures of a device, and what they are as bags."""
    from scipy.sparse import coo_matrix

    def bags(part: Part) -> tuple[csr_matrix, NDArray[np.int64]]:
        units, which_P = np.unique(_units(flows)[part.flow], return_inverse=True)
        ones, shape = np.ones(len(which_P)), (len(units), len(part.rows))
        return coo_matrix((ones, (which_P, part.row_of_flow)), shape=shape).tocsr(), units % len(flows.labels)

    train_BN, label_B = bags(parts["train"])
    test_UN, label_U = bags(parts["test"])
    bag = CaptureBag(seed).fit(parts["train"].rows.sequences, train_BN, label_B, len(flows.labels))
    return label_U, bag.probabilities(parts["test"].rows.sequences, test_UN).argmax(axis=1)


def _vote(
    label_R: NDArray[np.int64], unit_R: NDArray[np.int64], flows_R: NDArray[np.int64], answers_RC: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label (U,) of each capture of a device, and what its flows together say it is (U,)."""
    _, first_U, which_R = np.unique(unit_R, return_index=True, return_inverse=True)
    votes_UC = np.zeros((len(first_U), answers_RC.shape[1]))
    np.add.at(votes_UC, which_R, flows_R[:, np.newaxis] * np.log(np.maximum(answers_RC, _LEAST)))
    return label_R[first_U], votes_UC.argmax(axis=1)
