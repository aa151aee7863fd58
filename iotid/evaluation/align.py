"""Aligns a model with another dataset than its own: translates ids on input, and classes on output.

A champion of last month has other vocabularies and classes than today's dataset, but must be scored on the same test
split as its challenger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iotid.errors import DataError

if TYPE_CHECKING:
    from iotid.dataset import Encoding, Vocabulary

_SUM_TOLERANCE = 1e-3  # float32 probabilities over many classes


class Model(Protocol):
    """A trained model with the vocabularies and labels that it was trained with; ``model.Predictor`` is one."""

    encoding: Encoding

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[Any]:
        """Probabilities (n, classes of the encoding) for sequences (n, M) of the encoding's ids."""


def translate(
    sequences: Mapping[str, NDArray[np.int32]], source: Encoding, target: Encoding, name: str
) -> dict[str, NDArray[np.int32]]:
    """Translate ids of ``source`` into ids of ``target``; values outside the source's vocabulary stay so.

    Raises:
        DataError: ``target``, the encoding of model ``name``, reads what ``source`` lacks or encodes differently.
    """
    if source.length != target.length:
        raise DataError(
            f"model {name}: reads lengths from the {target.length} header on, the dataset from {source.length}; "
            f"assemble the flows with flow.length={target.length}"
        )
    if source.max_packets < target.max_packets:
        raise DataError(
            f"model {name}: reads {target.max_packets} packets of a flow, the dataset keeps {source.max_packets}; "
            f"assemble the flows with flow.max_packets={target.max_packets}"
        )
    lacking = sorted(set(target.vocabularies) - set(source.vocabularies))
    if lacking:
        raise DataError(f"model {name}: reads {', '.join(lacking)}; write a dataset with these dataset.characteristics")
    return {
        characteristic: _ids_from(source.vocabularies[characteristic], vocabulary)[
            sequences[characteristic][:, : target.max_packets]
        ]
        for characteristic, vocabulary in target.vocabularies.items()
    }


def _ids_from(source: Vocabulary, target: Vocabulary) -> NDArray[np.int32]:
    """(ids of the source,): the target's id for each; in both, 0 is padding and 1 out-of-vocabulary."""
    return np.concatenate([np.array([0, 1], np.int32), target.ids(np.array(source.values, np.int64))])


def align_columns(
    probabilities_NC: NDArray[Any], own_labels: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Probabilities with columns in the order of ``labels``; 0 for a class that the system does not know."""
    column_of = {label: index for index, label in enumerate(labels)}
    probabilities_NL = np.zeros((len(probabilities_NC), len(labels)))
    probabilities_NL[:, [column_of[label] for label in own_labels]] = probabilities_NC
    return probabilities_NL


def check_probabilities(probabilities_NC: NDArray[Any], rows: int, classes: int, name: str) -> None:
    """Raise a DataError unless every row is a probability distribution over the classes."""
    if probabilities_NC.shape != (rows, classes):
        raise DataError(
            f"system {name}: must return probabilities of shape {(rows, classes)}, got {probabilities_NC.shape}"
        )
    sums_N = probabilities_NC.sum(axis=1)
    broken = int((~(np.abs(sums_N - 1) <= _SUM_TOLERANCE) | (probabilities_NC < 0).any(axis=1)).sum())
    if broken:
        raise DataError(
            f"system {name}: the probabilities of {broken} of {rows} rows are negative, not numbers or do not sum to "
            "1; the model is broken, train it again"
        )
