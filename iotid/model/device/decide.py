"""Decides which kinds are found at each address, and its status, from the output of the device model.

Shape suffixes: B addresses, K kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.device.answers import Answer

KNOWN, SEVERAL, WITH_UNKNOWN, UNDECIDED, UNKNOWN = STATUSES = (
    "known", "several", "several_with_unknown", "undecided", "unknown",
)  # fmt: skip
# the last bits of probabilities depend on the other rows of a batch, and no decision may depend on those
DECIMALS = 6
_LIKELY = 0.3  # if no kind is found, a kind with this probability makes the address undecided, not unknown
_MOST_UNEXPLAINED = 0.5  # share of the distinct flows of a host whose kind was found
_PRIOR = 1.0  # pseudo-count of hosts, and of households, in the estimated share of households
_ROUNDS = 100


@dataclass(frozen=True)
class Decision:
    """``probability`` (B, K) of each kind; ``found`` (B, K); ``status`` (B,); ``household`` (B,): probability of
    one."""

    probability: NDArray[np.float64]
    found: NDArray[np.bool_]
    status: NDArray[np.str_]
    household: NDArray[np.float64]


def decide(answer: Answer, share: float, flows_B: NDArray[np.int64], settings: config.Census) -> Decision:
    """Decide for each address.

    * A kind is found if its probability is at least ``min_confidence`` and the flows like its own have at least
      ``min_evidence`` tokens: a flow of one packet has two, and may have a known length by chance.
    * A kind without flows like its own has probability 0: the model learned from whole recordings, and extrapolates
      for an address with few flows.
    * With fewer flows than ``min_flows``, or if no kind is found but one is likely, the address is undecided; if none
      is likely, it is unknown.
    * Only an address that is more likely a household than a host can have an unknown device beside the kinds found.
    * A host for which most distinct flows are like those of no kind found is another device with a little similar
      traffic: no kind is found, and none is likelier than the share of flows explained.

    Args:
        share: of households among the addresses (`share_of_households`).
        flows_B: flows of each address.
    """
    from scipy.special import expit

    with np.errstate(divide="ignore"):
        household_B = np.round(expit(answer.log_odds + np.log(share) - np.log1p(-share)), DECIMALS)
    mixed_BK = household_B[:, np.newaxis] * answer.household + (1 - household_B)[:, np.newaxis] * answer.host
    probability_BK = np.round(np.where(answer.known_tokens > 0, mixed_BK, 0), DECIMALS)
    enough_B = flows_B >= settings.min_flows
    enough_BK = (answer.known_tokens >= settings.min_evidence) & enough_B[:, np.newaxis]
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
    """The share of addresses that are households, not single hosts.

    ``behind``: ``hosts`` is 0, ``households`` 1; ``auto`` is the share that maximises the likelihood of all these
    addresses, by expectation maximisation (Saerens et al., Neural Computation 2002). Leave out addresses at which no
    kind can be found: a sender can forge any number of them.
    """
    from scipy.special import expit

    if behind != "auto":
        return float(behind == "households")
    share = 0.5
    for _ in range(_ROUNDS):
        household_B = expit(log_odds_B + np.log(share) - np.log1p(-share))
        share = float((household_B.sum() + _PRIOR) / (len(log_odds_B) + 2 * _PRIOR))
    return share
