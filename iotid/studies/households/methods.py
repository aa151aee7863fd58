"""The device model and its baselines, which find the kinds at addresses; all are trained on the same sets.

  device model            iotid.model.device, as in the census
  flow vote               a random forest on flows; a kind is found where its mean probability over the flows is above a
                          threshold, chosen on merged training sets
  regressions             a logistic regression for each kind (liblinear, C=1) on synthetic households, on token counts:
  1 + 0.3 (1 + log of the
                          count); a kind is found if its probability is 0.5 or more
  spatial-temporal CNN    iotid.baselines.spatial_temporal_cnn; a kind is found if its probability is 0.5 or more

The baselines report an unknown device if they find no kind.

Shape suffixes: N flows, B addresses or sets of flows, D distinct flows, H synthetic households, K kinds, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.baselines.random_forest import RandomForest
from iotid.baselines.spatial_temporal_cnn import SpatialTemporalCnn
from iotid.model.device import DeviceModel, decide, share_of_households
from iotid.model.device.decide import UNDECIDED, UNKNOWN, WITH_UNKNOWN
from iotid.model.device.synthetic_households import SamplingPool, flows_of_households
from iotid.model.device.token_features import Vocabulary
from iotid.studies.households.scores import Predictions, f1

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import EncodedFlows, Encoding
    from iotid.studies.households.addresses import Addresses, LabelledSets

DEVICE_MODEL, FLOW_VOTE, REGRESSIONS, CNN = "iotid", "flow vote", "regressions", "spatial-temporal CNN"
ORIGINS = {
    DEVICE_MODEL: "device model (ours)",
    FLOW_VOTE: f"vote of flows, each predicted by itself: {RandomForest.origin}",
    REGRESSIONS: "a logistic regression for each kind on synthetic households",
    CNN: SpatialTemporalCnn.origin,
}


class Training(NamedTuple):
    """``rows``: all distinct flows of the training split; ``sets``: sets that may be merged; ``kind`` (C,): of each
    class."""

    encoding: Encoding
    rows: EncodedFlows
    sets: LabelledSets
    kind: NDArray[np.int64]
    census: config.Census
    seed: int

    @property
    def kinds(self) -> int:
        return int(self.kind.max()) + 1

    @property
    def kind_of_set(self) -> NDArray[np.int64]:
        """(B,) -1 for an unknown device."""
        return np.append(self.kind, -1)[self.sets.label]


Method = Callable[["Addresses", str], Predictions]
"""From addresses, and ``census.behind``, to predictions."""


def device_model(training: Training) -> Method:
    model = DeviceModel(training.kind).fit(training.sets.sets(), seed=training.seed)

    def predict(addresses: Addresses, behind: str) -> Predictions:
        answer = model.answer(addresses.observed.sequences, addresses.distinct, addresses.concurrent)
        counted_B = answer.known_tokens.max(axis=1, initial=0) >= training.census.min_evidence
        share = share_of_households(answer.log_odds[counted_B], behind)
        flows_B = np.asarray(addresses.flows.sum(axis=1)).ravel().astype(np.int64)
        decision = decide(answer, share, flows_B, training.census)
        is_unknown = np.isin(decision.status, [UNKNOWN, WITH_UNKNOWN])
        return Predictions(
            decision.probability, decision.found, is_unknown, decision.status == UNDECIDED, answer.min_devices
        )

    return predict


def flow_vote(training: Training) -> Method:
    forest = RandomForest(training.encoding, training.seed).fit(training.rows, len(training.kind))
    of_kind_CK = np.eye(training.kinds + 1)[training.kind][:, : training.kinds]  # NO_KIND's class has no column

    def mean(addresses: Addresses) -> NDArray[np.float64]:
        votes_BK = addresses.distinct @ (forest.probabilities(addresses.observed.sequences) @ of_kind_CK)
        return np.asarray(votes_BK) / np.maximum(np.asarray(addresses.flows.sum(axis=1)), 1)

    synthetic, present_HK = _synthetic_households(training, 400, range(1, 11))
    mean_HK = mean(synthetic)
    limits = np.unique(np.quantile(mean_HK[mean_HK > 0], np.linspace(0, 1, 201)))
    limit = max(limits.tolist(), key=lambda limit: f1(present_HK, mean_HK >= limit) or 0)

    def predict(addresses: Addresses, behind: str) -> Predictions:
        mean_BK = mean(addresses)
        return _unknown_if_none_found(mean_BK, mean_BK >= limit)

    return predict


def regressions(training: Training) -> Method:
    from sklearn.linear_model import LogisticRegression

    vocabulary = Vocabulary.of(training.sets.addresses.observed.sequences)

    def points(addresses: Addresses) -> csr_matrix:
        counts = vocabulary.tokenize(addresses.observed.sequences, addresses.distinct).counts
        counts.data = 1 + 0.3 * counts.data
        return counts

    synthetic, present_HK = _synthetic_households(training, min(100 * training.kinds, 2000), range(1, 13))
    points_HT = points(synthetic)
    models = {
        kind: LogisticRegression(C=1.0, solver="liblinear").fit(points_HT, present_HK[:, kind])
        for kind in np.flatnonzero(present_HK.any(axis=0) & ~present_HK.all(axis=0)).tolist()
    }

    def predict(addresses: Addresses, behind: str) -> Predictions:
        points_BT, probability_BK = points(addresses), np.zeros((len(addresses), training.kinds))
        for kind, model in models.items():
            probability_BK[:, kind] = model.predict_proba(points_BT)[:, 1]
        return _unknown_if_none_found(probability_BK, probability_BK >= 0.5)

    return predict


def spatial_temporal_cnn(training: Training) -> Method:
    sets = training.sets
    cnn = SpatialTemporalCnn(training.kinds, training.seed)
    cnn.fit(sets.addresses.flows, sets.addresses.observed.fingerprints, training.kind_of_set, sets.recording)

    def predict(addresses: Addresses, behind: str) -> Predictions:
        probability_BK = cnn.probabilities(addresses.traffic)
        return _unknown_if_none_found(probability_BK, probability_BK >= 0.5)

    return predict


METHODS: Mapping[str, Callable[[Training], Method]] = {
    DEVICE_MODEL: device_model,
    FLOW_VOTE: flow_vote,
    REGRESSIONS: regressions,
    CNN: spatial_temporal_cnn,
}
"""All methods; add yours here, with its origin above."""


def _unknown_if_none_found(probability_BK: NDArray[np.float64], found_BK: NDArray[np.bool_]) -> Predictions:
    is_unknown = ~found_BK.any(axis=1)
    return Predictions(probability_BK, found_BK, is_unknown, np.zeros_like(is_unknown))


def _synthetic_households(training: Training, number: int, sizes: Sequence[int]) -> tuple[Addresses, NDArray[np.bool_]]:
    """Merged training sets, and (H, K) their kinds."""
    random, sets = np.random.default_rng(training.seed), training.sets
    pool = SamplingPool(training.kind_of_set, sets.recording, np.ones(len(sets.label), np.bool_))
    drawn = pool.draw(number, sizes, (0, 0, 0, 1, 2), random) + pool.singles()
    flows_HN, present_HK = flows_of_households(sets.addresses.flows, drawn, training.kinds, random)
    return sets.addresses.with_flows(flows_HN), present_HK
