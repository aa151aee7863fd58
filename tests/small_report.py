"""A small dataset in memory, and a trained model that stands in for the ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.evaluation.schema import Dataset


@dataclass
class Oracle:
    """Answers by the first length alone: class ``length - 40``, with the confidence given."""

    encoding: Encoding
    confidence: float = 0.9

    def probabilities(self, sequences: Mapping[str, np.ndarray]) -> np.ndarray:
        values = np.array([0, 0, *self.encoding.vocabularies["packet_length"].values])
        answer = values[sequences["packet_length"][:, 0]] - 40
        others = (1 - self.confidence) / (len(self.encoding.labels) - 1)
        answers = np.full((len(answer), len(self.encoding.labels)), others, dtype=np.float32)
        answers[np.arange(len(answer)), np.clip(answer, 0, len(self.encoding.labels) - 1)] = self.confidence
        return answers


@dataclass
class Small:
    """Three classes whose first length tells the class in 4 of 5 rows."""

    identity: Dataset
    encoding: Encoding
    train: EncodedFlows
    test: EncodedFlows


def _rows(random: np.random.Generator, rows: int) -> EncodedFlows:
    label = random.integers(0, 3, rows)
    shown = np.where(random.random(rows) < 0.8, label, random.integers(0, 3, rows))
    ids = np.zeros((rows, 4), dtype=np.int32)
    ids[:, 0] = shown + 2
    ids[:, 1] = random.integers(2, 5, rows)
    return EncodedFlows(
        {"packet_length": ids, "tcp_window": (ids > 0) * np.int32(2)}, label, random.integers(1, 20, rows)
    )


@pytest.fixture
def small() -> Small:
    random = np.random.default_rng(1)
    train, test = _rows(random, 300), _rows(random, 100)
    vocabularies = {"packet_length": Vocabulary((40, 41, 42)), "tcp_window": Vocabulary((0,))}
    encoding = Encoding(4, vocabularies, ("cam", "plug", "kettle"), {}, (6, 17), "ip")
    parts = {"train": train, "validation": test, "test": test}
    identity: Dataset = {
        "name": "small",
        "hash": "0123456789ab",
        "protocol": "random_flow",
        "parts": {part: {"rows": len(rows.label), "flows": int(rows.num_flows.sum())} for part, rows in parts.items()},
    }
    return Small(identity, encoding, train, test)


@pytest.fixture
def oracle(small: Small) -> Oracle:
    return Oracle(small.encoding)
