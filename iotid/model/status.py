"""What is said of a device in the end: known, several (devices behind one address), undecided or unknown.

The census decides by it, and the evaluation judges what it does to devices of kinds that were never learned.

Shape suffixes: N devices, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.labels import UNKNOWN as UNLISTED

if TYPE_CHECKING:
    from iotid import config

KNOWN, SEVERAL, UNDECIDED, UNKNOWN = STATUSES = ("known", "several", "undecided", "unknown")


def statuses(
    share_NC: NDArray[np.float64],
    surprise_N: NDArray[np.float64],
    is_new_N: NDArray[np.bool_],
    flows_N: NDArray[np.int64],
    labels: Sequence[str],
    settings: config.Census,
) -> NDArray[np.str_]:
    """(N,) one of STATUSES for each device, as if each were one: the census finds those that are several.

    It is `unknown` where its flows surprise more than ``max_surprise`` (share of values never seen), the class of
    unlisted devices wins, or its set is new (``is_new_N``); `undecided` with fewer flows than ``min_flows`` or a best
    class of less than ``min_confidence``; else known. ``share_NC``: of the evidence, for each of ``labels``.
    """
    unlisted_C = np.array([label == UNLISTED for label in labels])
    is_unknown_N = (surprise_N > settings.max_surprise) | is_new_N | unlisted_C[share_NC.argmax(axis=1)]
    too_little_N = (flows_N < settings.min_flows) | (share_NC.max(axis=1) < settings.min_confidence)
    return np.where(is_unknown_N, UNKNOWN, np.where(too_little_N, UNDECIDED, KNOWN))
