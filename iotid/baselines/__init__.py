"""The systems that the ensemble is compared with, all behind one small door: ``fit`` and ``probabilities``.

``create(name, encoding, seed)`` makes one by its name in ``evaluation.baselines``; ``names()`` lists them. A new rival
is one class that keeps the ``Classifier`` protocol and one line of the registry below. Two kinds stand apart, because
they do not judge flows: ``capture_bag`` names whole captures, and those of ``window_rivals(seed)`` name stretches of a
device's time, which they make themselves of a `Traffic`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from iotid.baselines import byteiot, pinheiro
from iotid.baselines.majority_sequence import MajoritySequence
from iotid.baselines.random_forest import RandomForest
from iotid.baselines.sequence_knn import SequenceKnn
from iotid.baselines.windows import Samples, WindowBaseline
from iotid.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iotid.dataset import EncodedFlows, Encoding

__all__ = ["Classifier", "Samples", "WindowBaseline", "create", "names", "window_rivals"]


class Classifier(Protocol):
    """What every rival keeps. ``origin`` names its paper, and says so where the recipe is a reconstruction."""

    origin: str

    def fit(self, train: EncodedFlows, num_classes: int) -> Self:
        """Learn from the training part; a row counts as its ``num_flows`` flows."""

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        """(n, num_classes) probabilities of n rows of (n, M) vocabulary ids; each row sums to 1."""


_REGISTRY: dict[str, Callable[[Encoding, int], Classifier]] = {
    "majority_sequence": lambda encoding, seed: MajoritySequence(),
    "sequence_knn": lambda encoding, seed: SequenceKnn(encoding),
    "random_forest": RandomForest,
}


def names() -> list[str]:
    return list(_REGISTRY)


def create(name: str, encoding: Encoding, seed: int) -> Classifier:
    """The rival of that name, not yet fitted.

    Raises:
        SettingError: there is no such rival.
    """
    if name not in _REGISTRY:
        raise SettingError(f"evaluation.baselines: {name!r} is not known; choose from {', '.join(_REGISTRY)}")
    return _REGISTRY[name](encoding, seed)


def window_baselines(seed: int) -> dict[str, WindowBaseline]:
    """Name -> a rival that judges stretches of time, not yet fitted: five of one-second windows, and ByteIoT."""
    found = {
        f"pinheiro_{name}": WindowBaseline(pinheiro.samples, 1, pinheiro.Pinheiro(name, seed))
        for name in pinheiro.MEMBERS
    }
    found["pinheiro_vote"] = WindowBaseline(pinheiro.samples, 1, pinheiro.PinheiroVote(seed))
    found["byteiot"] = WindowBaseline(byteiot.samples, byteiot.BIN_S, byteiot.ByteIot())
    return found
