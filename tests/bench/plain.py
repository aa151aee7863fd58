"""Reference implementation of the paper's network: every flow alone, 32 steps, float32, 65,536 windows, dense Adam.

It computes the same function as `iotid.model`: both directions of a layer are LSTMs over all steps, and the backward
one reads each flow reversed, so that padding never reaches the packets before it.

Shape suffixes: N flows, B flows of a batch, M steps, H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iotid import config
from iotid.dataset.arrays import first_values, list_positions
from iotid.dataset.characteristics import CHARACTERISTICS, Vocabulary

SIZES = {"packet_length": 65_536, "tcp_window": 65_536}  # all values of the field, without the padding


def values_of(flows: Any, max_packets: int) -> dict[str, np.ndarray]:
    """Characteristic -> int64 (N, M): each value + 1, and 0 where there is no packet."""
    found = {}
    for name in SIZES:
        values, lengths_N = first_values(flows.column(CHARACTERISTICS[name].column), max_packets)
        ids_NM = np.zeros((len(lengths_N), max_packets), np.int64)
        ids_NM[np.repeat(np.arange(len(lengths_N)), lengths_N), list_positions(lengths_N)] = values + 1
        found[name] = ids_NM
    return found


class _Layers(nn.Module):
    """A stacked bi-LSTM."""

    def __init__(self, inputs: int, settings: config.Model) -> None:
        super().__init__()
        sizes = [inputs] + [2 * settings.hidden_size] * (settings.layers - 1)
        self.ahead, self.back = (
            nn.ModuleList([nn.LSTM(size, settings.hidden_size, batch_first=True) for size in sizes]) for _ in range(2)
        )

    def forward(self, x_BMF: Tensor, reversed_BM: Tensor) -> Tensor:
        def reverse(y_BMF: Tensor) -> Tensor:
            return y_BMF.gather(1, reversed_BM.unsqueeze(2).expand(-1, -1, y_BMF.shape[2]))

        for ahead, back in zip(self.ahead, self.back, strict=True):
            x_BMF = torch.cat([ahead(x_BMF)[0], reverse(back(reverse(x_BMF))[0])], dim=2)
        return x_BMF

    def load_weights(self, trained: nn.LSTM) -> None:
        for suffix, layers in (("", self.ahead), ("_reverse", self.back)):
            for number, layer in enumerate(layers):
                for name, parameter in layer.named_parameters():
                    parameter.data.copy_(getattr(trained, f"{name.removesuffix('0')}{number}{suffix}").data)


class PlainEnsemble(nn.Module):
    """With iotid's defaults: each step's outputs concatenated, mean over a flow's steps."""

    def __init__(self, settings: config.Model, classes: int) -> None:
        super().__init__()
        both = 2 * settings.hidden_size
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(size + 1, settings.embedding_size) for name, size in SIZES.items()}
        )
        self.temporal = nn.ModuleDict({name: _Layers(settings.embedding_size, settings) for name in SIZES})
        self.spatial = _Layers(len(SIZES) * both, settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(both, classes)

    def forward(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C)."""
        present_BM = next(iter(ids.values())) != 0
        lengths_B1 = present_BM.sum(dim=1, keepdim=True)
        steps_M = torch.arange(present_BM.shape[1], device=present_BM.device)
        reversed_BM = torch.where(present_BM, lengths_B1 - 1 - steps_M, steps_M)
        temporal = [
            self.temporal[name](embedding(ids[name]), reversed_BM) for name, embedding in self.embeddings.items()
        ]
        output_BM2H = self.spatial(torch.cat(temporal, dim=2), reversed_BM)
        summary_B2H = (output_BM2H * present_BM.unsqueeze(2)).sum(dim=1) / lengths_B1.clamp(min=1)
        logits_BC: Tensor = self.classifier(self.dropout(summary_B2H))
        return logits_BC

    def load_weights(self, trained: Any, vocabularies: Mapping[str, Vocabulary]) -> None:
        """Load the weights of an AdaptiveEnsemble; out-of-vocabulary values get those of its out-of-vocabulary id."""
        for name, embedding in self.embeddings.items():
            ids = vocabularies[name].ids(np.arange(SIZES[name]))
            embedding.weight.data[1:] = trained.embeddings[name].weight.data[torch.from_numpy(ids.astype(np.int64))]
            embedding.weight.data[0] = 0
            self.temporal[name].load_weights(trained.temporal[name])
        self.spatial.load_weights(trained.spatial)
        self.classifier.load_state_dict(trained.classifier.state_dict())


def batch_of(sequences: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray | slice) -> dict[str, Tensor]:
    return {name: torch.from_numpy(ids_NM[rows]) for name, ids_NM in sequences.items()}
