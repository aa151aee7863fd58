"""Baselines: the systems that the ensemble is compared with. Each has ``fit`` and ``probabilities``.

To add a baseline:
1. write a class of the `Classifier` protocol (or `WindowClassifier`, for time windows of packets, or
   `CaptureClassifier`, for all flows of a device in a capture) in a module here;
2. add it to `BASELINES` (or `WINDOW_BASELINES`, `CAPTURE_BASELINES`), and its name to the field of `config.Evaluation`
   named there;
3. add it to tests/baselines, and compare it with its paper's numbers in the docs.

`create(name, encoding, seed)` makes a flow baseline, `window_baselines(seed)` all window baselines,
`capture_baselines(seed)` all that classify captures. Some baselines have
other inputs and are used directly in `iotid.studies`: `capture_bag` (whole captures), `etei` (bytes of packets),
`spatial_temporal_cnn` (all traffic of an address).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from iotid.baselines import byteiot, pinheiro
from iotid.baselines.audi import Audi
from iotid.baselines.deft import Deft
from iotid.baselines.device_flows import CaptureClassifier, DeviceFlows
from iotid.baselines.diot import Diot
from iotid.baselines.hamad import Hamad
from iotid.baselines.iot_sentinel import IotSentinel
from iotid.baselines.majority_sequence import MajoritySequence
from iotid.baselines.pingpong import PingPong
from iotid.baselines.random_forest import RandomForest
from iotid.baselines.sequence_knn import SequenceKnn
from iotid.baselines.sivanathan import Sivanathan
from iotid.baselines.windows import Samples, WindowBaseline
from iotid.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iotid.dataset import EncodedFlows, Encoding

__all__ = [
    "CaptureClassifier",
    "Classifier",
    "DeviceFlows",
    "Samples",
    "WindowBaseline",
    "capture_baselines",
    "create",
    "names",
    "window_baselines",
]


class Classifier(Protocol):
    """A baseline that classifies flows. ``origin``: its paper, and which parts are a reconstruction."""

    origin: str

    def fit(self, train: EncodedFlows, num_classes: int) -> Self:
        """Fit to the training split; a row counts as its ``num_flows`` flows."""

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        """(N, num_classes) probabilities of rows of (N, M) vocabulary ids; each row sums to 1."""


def _pinheiro(name: str, seed: int) -> WindowBaseline:
    return WindowBaseline(pinheiro.samples, 1, pinheiro.Pinheiro(name, seed))


# add yours here: baselines that classify flows, by their name in `evaluation.baselines`
BASELINES: dict[str, Callable[[Encoding, int], Classifier]] = {
    "majority_sequence": lambda encoding, seed: MajoritySequence(),
    "sequence_knn": lambda encoding, seed: SequenceKnn(encoding),
    "random_forest": RandomForest,
}

# or here: baselines that classify time windows of a `DeviceTraffic`, by their name in `evaluation.packet_baselines`
WINDOW_BASELINES: dict[str, Callable[[int], WindowBaseline]] = {
    **{f"pinheiro_{name}": partial(_pinheiro, name) for name in pinheiro.MEMBERS},
    "pinheiro_vote": lambda seed: WindowBaseline(pinheiro.samples, 1, pinheiro.PinheiroVote(seed)),
    "byteiot": lambda seed: WindowBaseline(byteiot.samples, byteiot.BIN_S, byteiot.ByteIot()),
}


# or here: baselines that classify captures of a device, by their name in `evaluation.capture_baselines`
CAPTURE_BASELINES: dict[str, Callable[[int], CaptureClassifier]] = {
    "sivanathan": Sivanathan,
    "iot_sentinel": IotSentinel,
    "hamad": Hamad,
    "audi": Audi,
    "pingpong": lambda seed: PingPong(),
    "deft": Deft,
    "diot": Diot,
}


def names() -> list[str]:
    return list(BASELINES)


def create(name: str, encoding: Encoding, seed: int) -> Classifier:
    """The baseline of that name, not yet fitted.

    Raises:
        SettingError: there is no such baseline.
    """
    if name not in BASELINES:
        raise SettingError(f"evaluation.baselines: {name!r} is not known; choose from {', '.join(BASELINES)}")
    return BASELINES[name](encoding, seed)


def window_baselines(seed: int) -> dict[str, WindowBaseline]:
    """Name -> a baseline that classifies time windows, not yet fitted."""
    return {name: make(seed) for name, make in WINDOW_BASELINES.items()}


def capture_baselines(seed: int) -> dict[str, CaptureClassifier]:
    """Name -> a baseline that classifies captures of a device, not yet fitted."""
    return {name: make(seed) for name, make in CAPTURE_BASELINES.items()}
