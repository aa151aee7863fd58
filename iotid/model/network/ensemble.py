"""The adaptive ensemble (paper, section 4): logits of classes from the encoded characteristics of flows.

One network per characteristic reads its sequence over time; another reads their outputs across the characteristics.
The number of characteristics is a setting.

Shape suffixes: B flows, L packets of the longest flow in the batch, P packets of all flows of the batch without
padding, U their distinct values, S steps that the spatial network reads, K characteristics, F features: both
directions' hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from iotid import config
from iotid.dataset.characteristics import PADDING
from iotid.model.network.lstm import run_lstms


class AdaptiveEnsemble(nn.Module):
    """Embedding and stacked bi-LSTM per characteristic, a spatial stacked bi-LSTM over them, dropout, linear layer.

    Sequences are packed, so padding is not computed and has no effect. If ``padding`` is ``zeros`` (the paper's), every
    step is computed, a missing packet as a vector of zeros; the logits then depend on the padded length, which must be
    the same as in training.

    ``fusion``: input of the spatial network (the paper: "the outputs of other stacked bi-LSTM"), either the temporal
    outputs of each packet concatenated (``concatenate``, S = L), or the characteristics' outputs one after the other
    (``sequence``, S = K·L). ``readout``: the mean over its outputs, or both directions' last states.
    """

    def __init__(self, settings: config.Model, vocabulary_sizes: Mapping[str, int], num_classes: int) -> None:
        """``vocabulary_sizes``: number of ids of each characteristic, with padding (0) and out-of-vocabulary (1)."""
        super().__init__()
        self.settings = settings
        both_directions = 2 * settings.hidden_size
        inputs = len(vocabulary_sizes) if settings.fusion == "concatenate" else 1
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(size, settings.embedding_size, PADDING) for name, size in vocabulary_sizes.items()}
        )
        self.temporal = nn.ModuleDict({name: _bi_lstm(settings.embedding_size, settings) for name in vocabulary_sizes})
        self.spatial = _bi_lstm(inputs * both_directions, settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(both_directions, num_classes)

    def forward(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C) of flows whose characteristics are given as int64 ids (B, L), padded at the end with 0."""
        logits_BC: Tensor = self.classifier(self.dropout(self.summary(ids)))
        return logits_BC

    def summary(self, ids: Mapping[str, Tensor]) -> Tensor:
        """(B, F) the output of the networks for each flow, which is the input of the linear layer."""
        present_BL = next(iter(ids.values())) != PADDING  # padding is at the end only, and no packet has its id
        lengths_B = present_BL.sum(dim=1).clamp(min=1).cpu()  # packing needs at least one packet
        if self.settings.padding == "zeros":
            lengths_B = torch.full_like(lengths_B, present_BL.shape[1])
        packed = {
            name: pack_padded_sequence(ids[name], lengths_B, batch_first=True, enforce_sorted=False)
            for name in self.embeddings
        }
        networks, tables, rows = [], [], []
        for name, embedding in self.embeddings.items():
            values_U, row_P = packed[name].data.unique(return_inverse=True)
            networks.append(cast("nn.LSTM", self.temporal[name]))
            tables.append(embedding(values_U))
            rows.append(row_P)
        like = next(iter(packed.values()))  # all characteristics have the same packing
        temporal_KPF, _ = run_lstms(networks, tables, like, rows)
        fused = self._fuse(temporal_KPF, like, lengths_B)
        output_1PF, last_1BF = run_lstms([self.spatial], [fused.data], fused)
        if self.settings.readout == "last":
            return last_1BF[0]
        output_BSF, steps_B = pad_packed_sequence(fused._replace(data=output_1PF[0]), batch_first=True)
        return output_BSF.sum(dim=1) / steps_B.to(output_BSF.device).unsqueeze(1)

    def _fuse(self, temporal_KPF: Tensor, like: PackedSequence, lengths_B: Tensor) -> PackedSequence:
        if self.settings.fusion == "concatenate":
            return like._replace(data=temporal_KPF.transpose(0, 1).flatten(1))
        parts = [pad_packed_sequence(like._replace(data=output_PF), batch_first=True)[0] for output_PF in temporal_KPF]
        return _pack_end_to_end(torch.stack(parts, dim=1), lengths_B)


def shapes(settings: config.Model, vocabulary_sizes: Mapping[str, int], num_classes: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an ensemble's weights, without allocating an ensemble."""
    hidden, both_directions = settings.hidden_size, 2 * settings.hidden_size
    inputs = len(vocabulary_sizes) if settings.fusion == "concatenate" else 1
    networks = {f"temporal.{name}": settings.embedding_size for name in vocabulary_sizes}
    networks["spatial"] = inputs * both_directions
    found: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}.weight": (size, settings.embedding_size) for name, size in vocabulary_sizes.items()
    }
    for network, input_size in networks.items():
        for layer in range(settings.layers):
            for of in (f"l{layer}", f"l{layer}_reverse"):
                found[f"{network}.weight_ih_{of}"] = (4 * hidden, both_directions if layer else input_size)
                found[f"{network}.weight_hh_{of}"] = (4 * hidden, hidden)
                found[f"{network}.bias_ih_{of}"] = found[f"{network}.bias_hh_{of}"] = (4 * hidden,)
    return {**found, "classifier.weight": (num_classes, both_directions), "classifier.bias": (num_classes,)}


def _bi_lstm(input_size: int, settings: config.Model) -> nn.LSTM:
    return nn.LSTM(input_size, settings.hidden_size, settings.layers, batch_first=True, bidirectional=True)


def _pack_end_to_end(x_BKLF: Tensor, lengths_B: Tensor) -> PackedSequence:
    """The packets of characteristic 0, then those of characteristic 1 …, with no padding between them."""
    B, K, L, F = x_BKLF.shape
    steps_S = torch.arange(K * L).unsqueeze(0)
    characteristic_BS = (steps_S // lengths_B.unsqueeze(1)).clamp(max=K - 1)
    packet_BS = (steps_S % lengths_B.unsqueeze(1)).clamp(max=L - 1)
    index_BSF = (characteristic_BS * L + packet_BS).to(x_BKLF.device).unsqueeze(2).expand(B, K * L, F)
    joined_BSF = x_BKLF.reshape(B, K * L, F).gather(1, index_BSF)
    return pack_padded_sequence(joined_BSF, K * lengths_B, batch_first=True, enforce_sorted=False)
