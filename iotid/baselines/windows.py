"""Common parts of baselines that classify a device's packets in time windows instead of flows.

Shape suffixes: R rows of counts, S samples, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.dataset import DeviceTraffic


class Samples(NamedTuple):
    """Time windows of a device in a capture, sorted by capture, device and time.

    ``capture``: code of the capture file in the traffic's dictionary; ``device``: index among the traffic's sorted
    devices; ``label``: index in the traffic's labels; ``start_s``: seconds since 1970 UTC (S,); ``features`` (S, D): an
    array, or a sparse CSR matrix.
    """

    capture: NDArray[np.int64]
    device: NDArray[np.int64]
    label: NDArray[np.int64]
    start_s: NDArray[np.int64]
    features: Any


class WindowClassifier(Protocol):
    """A baseline that classifies time windows. ``origin``: its paper, and which parts are a reconstruction."""

    origin: str

    def fit(self, features_SD: Any, label_S: NDArray[np.int64], num_classes: int) -> Self:
        """Fit to one or more samples; all have the same weight."""

    def probabilities(self, features_SD: Any) -> NDArray[np.float64]:
        """(S, num_classes) probabilities, or shares of votes; each row sums to 1."""


class WindowBaseline(NamedTuple):
    """``samples``: makes samples from traffic, in windows of ``seconds``; ``classifier``: of these samples."""

    samples: Callable[[DeviceTraffic], Samples]
    seconds: int
    classifier: WindowClassifier


class WindowedCounts(NamedTuple):
    """Samples without features, and the sample (R,) that each row of counts belongs to."""

    samples: Samples
    sample: NDArray[np.int64]

    def sum(self, value_R: NDArray[Any]) -> NDArray[np.float64]:
        """(S,) sum over the rows of each sample."""
        return np.bincount(self.sample, weights=value_R, minlength=len(self.samples.start_s)).astype(np.float64)


def time_windows(counts: pa.Table, length_s: int) -> WindowedCounts:
    """Divide a traffic's table into tumbling windows of ``length_s`` seconds, aligned to 1970.

    The table must be sorted by capture, device and time, so that a sample is a run of rows; rows may be missing. A
    window in which a device's label changes is one sample for each label; a window in two capture files, one for each.
    """
    device = counts["device"].combine_chunks().dictionary_encode()
    keys = (
        counts["capture_file"].combine_chunks().indices.to_numpy(),
        np.unique(device.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)[1][device.indices.to_numpy()],
        counts["label"].to_numpy(),
        counts["second"].to_numpy() // length_s * length_s,
    )
    keys_R4 = np.stack([key.astype(np.int64) for key in keys], axis=1)
    starts_R = np.ones(len(keys_R4), np.bool_)
    starts_R[1:] = (keys_R4[1:] != keys_R4[:-1]).any(axis=1)
    capture_S, device_S, label_S, start_S = keys_R4[starts_R].T
    return WindowedCounts(Samples(capture_S, device_S, label_S, start_S, None), np.cumsum(starts_R) - 1)
