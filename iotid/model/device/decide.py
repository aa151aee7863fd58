"""What is said of an address in the end, from the answer of the device model.

Shape suffixes: B addresses, K kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.device.presence import Answer

KNOWN, SEVERAL, WITH_UNKNOWN, UNDECIDED, UNKNOWN = STATUSES = (
    "known", "several", "several_with_unknown", "undecided", "unknown",
)  # fmt: skip
# Probabilities differ in their last bits with what else was computed beside them; no decision may hang on those.
DECIMALS = 6
_LIKELY = 0.3  # without a kind that is sure enough, one of this probability leaves the address undecided
_MOST_UNEXPLAINED = 0.5  # share of the distinct flows of a host of a kind that was found
_PRIOR = 1.0  # made-up addresses of either sort, with which the night's share of households is counted
_ROUNDS = 100


@dataclass(frozen=True)
class Decision:
    """``probability`` (B, K) of each kind; ``found`` (B, K); ``status`` (B,); ``household`` (B,): how likely one is."""

    probability: NDArray[np.float64]
    found: NDArray[np.bool_]
    status: NDArray[np.str_]
    household: NDArray[np.float64]


def decide(answer: Answer, share: float, flows_B: NDArray[np.int64], settings: config.Census) -> Decision:
    """``share`` of households among the addresses, of `share_of_households`; ``flows_B``: flows of each address.

    A kind is found from ``min_confidence`` on, if the flows that are like its own hold ``min_evidence`` tokens or more:
    a packet that is a flow by itself shows two, and may have a known length by chance. A kind that no flow is like has
    no probability, whatever the model says: it learned from whole recordings, and its answer on an address with hardly
    a flow, or none that it knows, is an extrapolation. An address with fewer flows than ``min_flows`` is undecided, and
    so is one where none is found but one is not unlikely; with none at all it is unknown. Something unknown is said to
    be beside what is found only of an address that is more likely a household than not. A host most of whose distinct
    flows are like those of no kind found is another device, which shows a little of a kind beside much of its own: no
    kind of it is likelier than the share that is explained.
    """
    from scipy.special import expit

    with np.errstate(divide="ignore"):
        household_B = np.round(expit(answer.log_odds + np.log(share) - np.log1p(-share)), DECIMALS)
    mixed_BK = household_B[:, np.newaxis] * answer.household + (1 - household_B)[:, np.newaxis] * answer.host
    probability_BK = np.round(np.where(answer.evidence > 0, mixed_BK, 0), DECIMALS)
    enough_B = flows_B >= settings.min_flows
    enough_BK = (answer.evidence >= settings.min_evidence) & enough_B[:, np.newaxis]
    found_BK = (probability_BK >= settings.min_confidence) & enough_BK
    is_other_B = found_BK.any(axis=1) & (household_B < 0.5) & (answer.unexplained > _MOST_UNEXPLAINED)
    explained_B = np.round(1 - answer.unexplained, DECIMALS)
    probability_BK[is_other_B] = np.minimum(probability_BK, explained_B[:, np.newaxis])[is_other_B]
    found_BK[is_other_B] = False
    number_B, best_B = found_BK.sum(axis=1), probability_BK.max(axis=1, initial=0)
    is_beside_B = (number_B > 0) & (household_B >= 0.5) & (np.round(answer.unknown, DECIMALS) > 0.5)
    status_B = np.select(
        [is_beside_B, number_B > 1, number_B == 1, (best_B >= _LIKELY) | ~enough_B],
        [WITH_UNKNOWN, SEVERAL, KNOWN, UNDECIDED],
        UNKNOWN,
    )
    return Decision(probability_BK, found_BK, status_B, household_B)


def share_of_households(log_odds_B: NDArray[np.float64], behind: str) -> float:
    """The share of addresses behind which there is a household, not one host.

    ``behind``: ``hosts`` and ``households`` say it; ``auto`` takes the share at which the evidence of all these
    addresses is likeliest, found by expectation maximisation (Saerens et al., Neural Computation 2002). Addresses at
    which nothing can be found are best left out: there may be any number of invented ones.
    """
    from scipy.special import expit

    if behind != "auto":
        return float(behind == "households")
    share = 0.5
    for _ in range(_ROUNDS):
        household_B = expit(log_odds_B + np.log(share) - np.log1p(-share))
        share = float((household_B.sum() + _PRIOR) / (len(log_odds_B) + 2 * _PRIOR))
    return share
