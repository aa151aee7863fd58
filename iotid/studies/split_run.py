"""Trains the ensemble and the baselines on one split of the flows, and predicts its test split with each system.

Systems predict flows, windows of a device's traffic or sets of flows: captures of a device and, under ``across``, all
flows of a device. Predictions are aggregated where possible (`votes`): from flows to sets by vote (the sum of log
probabilities, as in naive Bayes), from captures to their flows, from windows to both by majority.

Shape suffixes: N flows, P flows of the test split, R their distinct rows, I flows, windows or sets, U sets, S samples
of a device's traffic, L capture files, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import baselines, config
from iotid.arrow import one_chunk
from iotid.baselines.capture_bag import CaptureBag
from iotid.baselines.device_flows import DeviceFlows
from iotid.dataset import Encoding, FlowSets, LabelledFlows
from iotid.dataset.characteristics import out_of_vocabulary_rate
from iotid.dataset.in_memory import DatasetSplit
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.errors import DataError, SettingError
from iotid.evaluation import leakage
from iotid.labels.devices import UNLISTED
from iotid.studies import protocols
from iotid.studies.open_set import OpenSetAnswers
from iotid.studies.votes import log_votes, majority, normalised, of_groups, rank, to_flows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.baselines import Samples, WindowBaseline
    from iotid.baselines.etei import Etei
    from iotid.dataset import DeviceTraffic
    from iotid.model import Predictor
    from iotid.model.device import Answer, Decision, DeviceModel

ENSEMBLE, DEVICE_MODEL, SIMILARITY, BAG, ETEI = "ensemble", "device_model", "similar_kinds", "capture_bag", "etei"
OURS = (ENSEMBLE, DEVICE_MODEL, SIMILARITY, BAG)  # all others are baselines
FLOWS, WINDOWS, CAPTURES, DEVICES = "flows", "windows", "captures", "devices"
RIGHT, WRONG = "right", "wrong"  # outcomes of a census that finds kinds; the others are statuses
_ORIGINS = {
    ENSEMBLE: "adaptive ensemble of bi-LSTMs (the paper's), with sequence counts",
    DEVICE_MODEL: "device model on all flows of a capture; each flow gets the capture's answer (ours)",
    SIMILARITY: "kinds ranked by similarity in several views, as candidates; each of a kind's labels alike (ours)",
    BAG: CaptureBag.origin,
}
SPLITS_WITHIN_CAPTURES = (
    "random_flow",
    "random_unique",
    "by_time",
)  # protocols that divide captures


class Answers(NamedTuple):
    """A system's predictions (I,) for flows, windows, captures of a device or devices.

    ``label_rank``, ``kind_rank``: ranks of the own label and kind among those in training, see `votes.rank`; -1 of
    flows and windows. ``outcome``: what a census would report, only of the device model's sets: RIGHT (exactly the own
    kind is found), WRONG, UNDECIDED or UNKNOWN.
    """

    label: NDArray[np.int64]
    named: NDArray[np.int64]
    confidence: NDArray[np.float64]
    unit: NDArray[np.int64]  # number of the capture (of DEVICES: `LabelledFlows.device_at_site`) times C, plus label
    day: NDArray[np.int64]  # since 1970
    label_rank: NDArray[np.int64]
    kind_rank: NDArray[np.int64]
    outcome: NDArray[np.str_]

    def only(self, kept_I: NDArray[np.bool_]) -> Answers:
        return Answers._make(column[kept_I] for column in self)


_Found = dict[str, dict[str, Answers]]


@dataclass(frozen=True)
class SplitRun:
    """One split of the flows, and the predictions of all systems for its test split."""

    settings: config.Settings
    folder: Path  # of the ensemble trained on it
    traffic: DeviceTraffic | None
    flows: LabelledFlows
    part: NDArray[np.int8]  # (N,) output of protocols.splits
    protocol: str
    name: str
    origins: dict[str, str] = field(default_factory=lambda: dict(_ORIGINS))  # of every system

    def shares(self) -> dict[str, float]:
        train, test = self.parts["train"].rows, self.parts["test"].rows
        return {
            "floor": leakage.majority_baseline(test),
            "seen": leakage.seen_in_training(train, test),
            "leakage": leakage.leakage(train, test),
            "ceiling": leakage.ceiling(test),
        }

    def open_sets(self, group: int) -> OpenSetAnswers:
        """Predictions for captures of the test split, and for captures of kinds that were left out of training."""
        left_out = self._part_of(self.part == protocols.LEFT_OUT)
        parts = [self._sets(part, group) for part in (self.parts["test"], left_out)]
        return OpenSetAnswers(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def answers(self) -> _Found:
        """System -> FLOWS, WINDOWS, CAPTURES or DEVICES -> its predictions."""
        settings, test = self.settings, self.parts["test"]
        own = self._predictor.probabilities(test.rows.sequences).astype(np.float64)
        found = {ENSEMBLE: self._of_flows(own[test.row_of_flow]), **self.set_answers()}
        for baseline in settings.evaluation.baselines:
            fitted = baselines.create(baseline, self.encoding, settings.evaluation.seed)
            fitted.fit(self.parts["train"].rows, len(self.encoding.labels))
            self.origins[baseline] = fitted.origin
            found[baseline] = self._of_flows(fitted.probabilities(test.rows.sequences)[test.row_of_flow])
        found[BAG] = found.pop(BAG)  # in the order of the tables
        return found | self._packet_baselines() | self._capture_baselines()

    def set_answers(self) -> _Found:
        """The predictions of the systems of ours that read all flows of a set: they need no neural network."""
        return {**self._by_device_model(), BAG: self._by_capture_bag()}

    def of_learned_kinds(self, found: _Found) -> _Found:
        """The predictions for devices whose kind is in training; unlisted ones have none that two sites share."""
        is_learned_C = np.isin(self._coarse, self._coarse[self._is_learned]) & (np.array(self.flows.labels) != UNLISTED)
        return {
            system: {of: answers.only(is_learned_C[answers.label]) for of, answers in answered.items()}
            for system, answered in found.items()
        }

    @cached_property
    def _dataset(self) -> tuple[Encoding, dict[str, DatasetSplit]]:
        encoding, parts = self.flows.dataset(self.part)
        for part in DATASET_SPLITS:
            if part not in parts:
                raise DataError(f"{self.name}: the {part} split is empty; give more captures, or another protocol")
        return encoding, parts

    @property
    def encoding(self) -> Encoding:
        return self._dataset[0]

    @property
    def parts(self) -> dict[str, DatasetSplit]:
        return self._dataset[1]

    @cached_property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """CAPTURES and, under ``across``, DEVICES -> (N,) the set of each flow, as `Answers.unit`."""
        of_flow = {CAPTURES: self.flows.capture}
        if self.protocol == protocols.ACROSS:
            of_flow[DEVICES] = self.flows.device_at_site
        return {of: number_N * len(self.flows.labels) + self.flows.label for of, number_N in of_flow.items()}

    @property
    def units(self) -> NDArray[np.int64]:
        """(N,) a number for each capture of a device."""
        return self.sets[CAPTURES]

    @cached_property
    def days(self) -> NDArray[np.int64]:
        return protocols.days(self.flows)

    @cached_property
    def _coarse(self) -> NDArray[np.int64]:
        """(C,) the kind of each label, as `protocols.kinds`, where unlisted devices are one."""
        return protocols.kinds(self.flows)[1]

    @cached_property
    def _predictor(self) -> Predictor:
        from iotid.model import Predictor
        from iotid.training.fit import fit

        settings, train, validation = self.settings, self.parts["train"], self.parts["validation"]
        fit(settings.model, settings.training, self.encoding, train.rows, validation.rows, self.folder)
        return Predictor.load(self.folder)

    @cached_property
    def _device_model(self) -> DeviceModel:
        """Trained on the training and the validation split, as it needs no validation."""
        from iotid.model.device import DeviceModel

        learned = self._learned
        bags_UR, label_U = self._bags(learned)
        entries = bags_UR.tocoo()
        sequences = {name: ids_RM[entries.col] for name, ids_RM in learned.rows.sequences.items()}
        sets = FlowSets.of(sequences, entries.row, label_U[entries.row], entries.data.astype(np.int64))
        return DeviceModel(self._kind_of).fit(sets, seed=self.settings.training.seed)

    @cached_property
    def _kind_of(self) -> NDArray[np.int64]:
        from iotid.model.device import kinds_of

        return kinds_of(self.encoding.labels, self.encoding.devices)[1]

    @cached_property
    def _learned(self) -> DatasetSplit:
        """The training and the validation split together."""
        return self._part_of((self.part == protocols.TRAIN) | (self.part == protocols.VALIDATION))

    def _part_of(self, is_in_N: NDArray[np.bool_]) -> DatasetSplit:
        flow = np.flatnonzero(is_in_N)
        return DatasetSplit.of(
            self.encoding.encode(self.flows.flows.take(pa.array(flow))), self.flows.label[flow], flow
        )

    def _sets(self, part: DatasetSplit, group: int) -> OpenSetAnswers:
        """Predictions for the split's captures of a device, in the order of ``units``; without unlisted devices, which
        have no kind."""
        from iotid.model.device import NO_KIND

        sequences, (bags_UR, label_U) = part.rows.sequences, self._bags(part)
        flows_U = np.asarray(bags_UR.sum(axis=1)).ravel().astype(np.int64)
        out_of_vocabulary_U = bags_UR @ out_of_vocabulary_rate(sequences) / flows_U
        network_UC = bags_UR @ self._predictor.probabilities(sequences) / flows_U[:, np.newaxis]
        answer, kind_U = self._device_model.answer(sequences, bags_UR), self._kind_of[label_U]
        decision = self._decide(answer, bags_UR)
        best_U = decision.probability.max(axis=1)
        sets = OpenSetAnswers(
            unit=np.unique(self.units[part.flow]),
            label=label_U,
            left_out=np.isin(label_U, self.flows.label[self.part == protocols.LEFT_OUT]),
            device_model=1 - best_U,
            out_of_vocabulary_rate=out_of_vocabulary_U,
            network_uncertainty=1 - network_UC.max(axis=1),
            is_new=best_U < self.settings.census.min_confidence,
            named=self._of_classes(answer).argmax(axis=1),
            is_own=_is_own(decision, kind_U),
            status=decision.status,
            group=np.full(len(label_U), group),
        )
        return OpenSetAnswers(*(column[kind_U != NO_KIND] for column in sets))

    def _decide(self, answer: Answer, bags_UR: csr_matrix) -> Decision:
        from iotid.model.device import decide

        flows_U = np.asarray(bags_UR.sum(axis=1)).ravel().astype(np.int64)
        return decide(answer, 0.0, flows_U, self.settings.census)  # no households: a set is of one device

    def _by_device_model(self) -> _Found:
        """Predictions for the test split's sets, and for each flow that of its capture; and the most similar kinds."""
        test = self.parts["test"]
        found: dict[str, Answers] = {}
        similar: dict[str, Answers] = {}
        for of in self.sets:
            bags_UR, label_U = self._bags(test, of)
            answer = self._device_model.answer(test.rows.sequences, bags_UR)
            decision = self._decide(answer, bags_UR)
            named_U = np.where(_is_own(decision, self._kind_of[label_U]), RIGHT, WRONG)
            outcome_U = np.where(decision.found.any(axis=1), named_U, decision.status)
            found[of] = self._of_sets(of, self._of_classes(answer))._replace(outcome=outcome_U)
            similar[of] = self._of_sets(of, self._of_similar_kinds(answer.similarity))
        return {DEVICE_MODEL: {FLOWS: self._from_captures(found[CAPTURES]), **found}, SIMILARITY: similar}

    def _of_similar_kinds(self, similarity_UK: NDArray[np.float64]) -> NDArray[np.float64]:
        """(U, C) proportional to the similarity to each class's kind, divided among the kind's learned classes."""
        is_known_C = self._is_learned & (self._kind_of >= 0)
        classes_K = np.bincount(self._kind_of[is_known_C], minlength=similarity_UK.shape[1])
        share_UK = similarity_UK / np.maximum(classes_K, 1)
        class_UC = np.where(is_known_C, share_UK[:, np.maximum(self._kind_of, 0)], 0)
        whole_U1 = class_UC.sum(axis=1, keepdims=True)
        return np.where(whole_U1 > 0, class_UC / np.where(whole_U1 > 0, whole_U1, 1), 1 / len(self._kind_of))

    def _of_classes(self, answer: Answer) -> NDArray[np.float64]:
        return probabilities_of_classes(answer, self._kind_of, self._is_learned)

    @cached_property
    def _is_learned(self) -> NDArray[np.bool_]:
        """(C,)"""
        return np.isin(np.arange(len(self._kind_of)), self._learned.rows.label)

    def _by_capture_bag(self) -> dict[str, Answers]:
        learned, sequences = self._learned, self.parts["test"].rows.sequences
        bag = CaptureBag(self.settings.evaluation.seed)
        bag.fit(learned.rows.sequences, *self._bags(learned), len(self.flows.labels))
        bags = {of: self._bags(self.parts["test"], of)[0] for of in self.sets}
        return {of: self._of_sets(of, bag.probabilities(sequences, bags_UR)) for of, bags_UR in bags.items()}

    def _bags(self, part: DatasetSplit, of: str = CAPTURES) -> tuple[csr_matrix, NDArray[np.int64]]:
        """(U, R) flows of each row in each set, and the sets' labels (U,)."""
        from scipy.sparse import coo_matrix

        units, which_P = np.unique(self.sets[of][part.flow], return_inverse=True)
        ones, shape = np.ones(len(which_P)), (len(units), len(part.rows))
        return coo_matrix((ones, (which_P, part.row_of_flow)), shape=shape).tocsr(), units % len(self.flows.labels)

    def _of_flows(self, probabilities_PC: NDArray[np.float64]) -> dict[str, Answers]:
        """Predictions for the test split's flows, and by vote for its sets."""
        flow = self.parts["test"].flow
        found = {FLOWS: _answers_of(self.flows.label[flow], probabilities_PC, self.units[flow], self.days[flow])}
        for of, set_N in self.sets.items():
            log_UC = log_votes(set_N[flow], probabilities_PC)
            found[of] = self._of_sets(of, normalised(log_UC), log_UC)
        return found

    def _of_sets(
        self, of: str, probabilities_UC: NDArray[np.float64], log_UC: NDArray[np.float64] | None = None
    ) -> Answers:
        """Predictions for the test split's sets, in their order; ``log_UC``: logarithms, where they are more exact."""
        flow = self.parts["test"].flow
        units, first = np.unique(self.sets[of][flow], return_index=True)
        label_U, kind_C = units % len(self.flows.labels), self._coarse
        with np.errstate(divide="ignore"):
            log_UC = np.log(probabilities_UC) if log_UC is None else log_UC
        log_UC = np.where(self._is_learned, log_UC, -np.inf)
        return _answers_of(label_U, probabilities_UC, units, self.days[flow][first])._replace(
            label_rank=rank(label_U, log_UC), kind_rank=rank(kind_C[label_U], of_groups(log_UC, kind_C))
        )

    def _from_captures(self, answered: Answers) -> Answers:
        """For each flow of the test split the prediction of its capture."""
        flow = self.parts["test"].flow
        index = np.searchsorted(answered.unit, self.units[flow])
        return _answers(
            self.flows.label[flow], answered.named[index], answered.confidence[index], self.units[flow], self.days[flow]
        )

    def _capture_baselines(self) -> dict[str, dict[str, Answers]]:
        """Predictions of the baselines that read all flows of a capture, and for each flow that of its capture."""
        settings = self.settings.evaluation
        found: dict[str, dict[str, Answers]] = {}
        if not settings.capture_baselines:
            return {}
        made = baselines.capture_baselines(settings.seed)
        learned, label_U = self._device_flows(self._learned)
        tested = {of: self._device_flows(self.parts["test"], of)[0] for of in self.sets}
        for name in settings.capture_baselines:
            baseline = made[name].fit(learned, label_U, len(self.flows.labels))
            self.origins[name] = baseline.origin
            answered = {of: self._of_sets(of, baseline.probabilities(sets)) for of, sets in tested.items()}
            found[name] = {FLOWS: self._from_captures(answered[CAPTURES]), **answered}
        return found

    def _device_flows(self, part: DatasetSplit, of: str = CAPTURES) -> tuple[DeviceFlows, NDArray[np.int64]]:
        """The split's flows by set, in the order of ``sets``, and the sets' labels (U,)."""
        units, unit_P = np.unique(self.sets[of][part.flow], return_inverse=True)
        first_P = pc.cast(self.flows.flows["first_seen"], pa.int64()).to_numpy()[part.flow]
        order = np.lexsort((first_P, unit_P))
        flow = part.flow[order]
        flows, is_client = self.flows.flows.take(pa.array(flow)), self.flows.is_client[flow]
        keep_packets = self.flows.flow.keep_packets if self.flows.flow.keep_bytes else 0
        return DeviceFlows(flows, unit_P[order], is_client, len(units), keep_packets), units % len(self.flows.labels)

    def _packet_baselines(self) -> dict[str, dict[str, Answers]]:
        """Predictions of the baselines that read packets."""
        settings, traffic = self.settings.evaluation, self.traffic
        window_baselines = baselines.window_baselines(settings.seed)
        found: dict[str, dict[str, Answers]] = {}
        for name in settings.packet_baselines:
            if name == ETEI:
                found[name] = self._of_flows(self._by_bytes())
            elif name not in window_baselines:
                known = ", ".join((*window_baselines, ETEI))
                raise SettingError(f"evaluation.packet_baselines: {name!r} is not known; choose from {known}")
            elif traffic is not None:
                self.origins[name] = window_baselines[name].classifier.origin
                found[name] = self._by_windows(window_baselines[name], window_baselines[name].samples(traffic))
        return found

    def _by_bytes(self) -> NDArray[np.float64]:
        """(P, C) probabilities of the test split's flows by their first bytes."""
        baseline = bytes_baseline(self.flows, self.settings.evaluation)
        self.origins[ETEI] = baseline.origin
        train, test = (self.flows.bytes_of(self.parts[part].flow) for part in ("train", "test"))
        label_P = self.flows.label[self.parts["train"].flow]
        baseline.fit(train, label_P, np.ones(len(label_P), np.int64), len(self.flows.labels))
        return baseline.probabilities(test)

    def _by_windows(self, baseline: WindowBaseline, samples: Samples) -> dict[str, Answers]:
        assert self.traffic is not None
        capture_L, part_L = self._captures_of(self.traffic)
        cuts = self.protocol in SPLITS_WITHIN_CAPTURES
        part_S = protocols.parts_of_samples(samples, None if cuts else part_L, self.protocol, self.flows.settings)
        train, test = (np.flatnonzero(part_S == part) for part in (protocols.TRAIN, protocols.TEST))
        if not len(train) or not len(test):
            raise DataError(f"{self.name}: the captures have no packets of listed devices; set packet_baselines=[]")
        C = len(self.flows.labels)
        baseline.classifier.fit(samples.features[train], samples.label[train], C)
        probabilities_SC = baseline.classifier.probabilities(samples.features[test])
        unit_S = capture_L[samples.capture[test]] * C + samples.label[test]
        start_S = samples.start_s[test]
        found = {WINDOWS: _answers_of(samples.label[test], probabilities_SC, unit_S, start_S // 86_400)}
        if cuts:
            return found
        named_SC = np.eye(C)[probabilities_SC.argmax(axis=1)]  # each window has one vote, as published
        flow = self.parts["test"].flow
        first_P, last_P = (
            pc.cast(self.flows.flows[name], pa.int64()).to_numpy()[flow] // 1_000_000
            for name in ("first_seen", "last_seen")
        )
        prior_C = np.bincount(samples.label[train], minlength=C) / len(train)
        flow_PC = to_flows(self.units[flow], first_P, last_P, unit_S, start_S, baseline.seconds, named_SC, prior_C)
        found |= self._of_flows(flow_PC)
        units, first = np.unique(self.units[flow], return_index=True)
        at_S = np.minimum(np.searchsorted(units, unit_S), len(units) - 1)
        for of, set_N in self.sets.items():
            set_S = np.where(units[at_S] == unit_S, set_N[flow[first]][at_S], -1)  # a window is in its capture's set
            voters, voted = np.unique(set_S), majority(set_S, named_SC)
            wanted = np.unique(set_N[flow])
            index = np.minimum(np.searchsorted(voters, wanted), len(voters) - 1)
            votes_UC = np.where((voters[index] == wanted)[:, np.newaxis], voted[index], prior_C)
            found[of] = self._of_sets(of, votes_UC)
        return found

    def _captures_of(self, traffic: DeviceTraffic) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """(L,) number of each of the traffic's capture files in the flows, -1 if it has no flow, and (L,) its split."""
        encoded = one_chunk(self.flows.flows["capture_file"]).dictionary_encode()
        code_N = encoded.indices.to_numpy()
        number, rank = (np.full(len(encoded.dictionary) + 1, -1) for _ in range(2))  # last: captures without a flow
        number[code_N] = self.flows.capture
        # a capture with test flows is in the test split, one with both training and validation flows in training
        ranked = np.array([protocols.VALIDATION, protocols.TRAIN, protocols.TEST, -1])
        np.maximum.at(rank, code_N, np.array([1, 0, 2, -1, -1])[self.part])  # ranks of DATASET_SPLITS, LEFT_OUT, none
        paths = one_chunk(traffic.table["capture_file"]).dictionary
        index_L = pc.index_in(paths, value_set=encoded.dictionary).fill_null(-1).to_numpy()
        return number[index_L], ranked[rank[index_L]].astype(np.int8)


def bytes_baseline(flows: LabelledFlows, settings: config.Evaluation) -> Etei:
    """The baseline that reads payload, not yet fitted.

    Raises:
        SettingError: the flows have no bytes of packets, or too few.
    """
    from iotid.baselines.etei import Etei

    flow = flows.flow
    if not flow.keep_bytes:
        raise SettingError(
            f"evaluation.packet_baselines: {ETEI} reads the first bytes of packets, which these flows do not "
            "have; assemble them with flow.keep_bytes=250 (it keeps payload)"
        )
    return Etei(settings.seed, packets=flow.keep_packets, packet_bytes=flow.keep_bytes, epochs=settings.etei_epochs)


def _answers_of(
    label: NDArray[np.int64], probabilities_IC: NDArray[np.float64], unit: NDArray[np.int64], day: NDArray[np.int64]
) -> Answers:
    return _answers(label, probabilities_IC.argmax(axis=1), probabilities_IC.max(axis=1), unit, day)


def _answers(
    label: NDArray[np.int64],
    named: NDArray[np.int64],
    confidence: NDArray[np.float64],
    unit: NDArray[np.int64],
    day: NDArray[np.int64],
) -> Answers:
    """Without ranks and outcomes."""
    no_rank = np.full(len(label), -1)
    return Answers(label, named, confidence, unit, day, no_rank, no_rank, np.full(len(label), ""))


def _is_own(decision: Decision, kind_U: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(U,) whether exactly the set's own kind is found."""
    own_UK = kind_U[:, np.newaxis] == np.arange(decision.found.shape[1])
    return np.asarray((decision.found == own_UK).all(axis=1))


def probabilities_of_classes(
    answer: Answer, kind_C: NDArray[np.int64], is_learned_C: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(U, C) probabilities of the classes for sets of one host each; rows sum to 1.

    Proportional to the probability of the kind times the class's share of the kind. The class of unlisted devices,
    which has no kind, gets 1 - the likeliest kind's probability; classes that are not in training get 0.
    """
    from iotid.model.device import NO_KIND

    none_U = 1 - answer.host.max(axis=1, initial=0)
    kind_UC = np.column_stack([answer.host, none_U])[:, kind_C]  # NO_KIND is the last column
    share_UC = np.where(kind_C == NO_KIND, 1, answer.class_share)
    class_UC = np.where(is_learned_C, kind_UC * share_UC, 0)
    whole_U1 = class_UC.sum(axis=1, keepdims=True)
    return np.where(whole_U1 > 0, class_UC / np.where(whole_U1 > 0, whole_U1, 1), 1 / len(kind_C))
