"""The adaptive ensemble (paper, section 4): logits of classes from the encoded characteristics of flows.

One network per characteristic reads its sequence over time; another reads their outputs across the characteristics.
The number of characteristics is a setting.

Shape suffixes: B flows, L packets of the longest flow in the batch, P packets of all flows of the batch without
padding, U their distinct values, S steps that the spatial network reads, K characteristics, F features: both
directions' hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from iotid import config
from iotid.dataset.characteristics import PADDING
from iotid.model.network.lstm import run_lstms, uses_torch_lstm

_TRIED = 64  # flows
_MOST_FACTORS = 1 << 20


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

    def forward(self, ids: Mapping[str, Tensor], lengths_B: Tensor | None = None) -> Tensor:
        """Logits (B, C) of flows whose characteristics are given as int64 ids (B, L), padded at the end with 0.

        ``lengths_B``: the steps to read of each flow, at least one, int64 on the CPU. Without it they are counted,
        which on a GPU waits until all that was started before has been computed.
        """
        summary_BF = self.dropout(self.summary(ids, lengths_B))
        if torch.is_inference_mode_enabled() and not summary_BF.is_cuda:
            return _exact_linear(summary_BF, self.classifier)
        logits_BC: Tensor = self.classifier(summary_BF)
        return logits_BC

    def summary(self, ids: Mapping[str, Tensor], lengths_B: Tensor | None = None) -> Tensor:
        """(B, F) the output of the networks for each flow, which is the input of the linear layer."""
        if lengths_B is None:
            lengths_B = self._lengths(next(iter(ids.values())))
        packed = dict(zip(self.embeddings, _pack([ids[name] for name in self.embeddings], lengths_B), strict=True))
        networks = [cast("nn.LSTM", self.temporal[name]) for name in packed]
        like = next(iter(packed.values()))  # all characteristics have the same packing
        rows: list[Tensor] | None
        if uses_torch_lstm(like.data.device):  # where counting distinct values waits for the device, for no gain
            inputs, rows = [embedding(packed[name].data) for name, embedding in self.embeddings.items()], None
        else:
            inputs, rows = [], []
            for name, embedding in self.embeddings.items():
                values_U, row_P = packed[name].data.unique(return_inverse=True)
                inputs.append(embedding(values_U))
                rows.append(row_P)
        temporal_KPF, _ = run_lstms(networks, inputs, like, rows)
        fused = self._fuse(temporal_KPF, like)
        output_1PF, last_1BF = run_lstms([self.spatial], [fused.data], fused)
        if self.settings.readout == "last":
            return last_1BF[0]
        sorted_BSF, _ = _pad(fused._replace(data=output_1PF[0]))
        output_BSF = sorted_BSF.index_select(0, cast("Tensor", fused.unsorted_indices))
        steps_B = lengths_B * (len(networks) if self.settings.fusion == "sequence" else 1)
        exact = torch.is_inference_mode_enabled() and not output_BSF.is_cuda
        sum_BF = _exact_sum(output_BSF) if exact else output_BSF.sum(dim=1)
        return sum_BF / steps_B.to(output_BSF.device, non_blocking=True).unsqueeze(1)

    def _lengths(self, ids_BL: Tensor) -> Tensor:
        if self.settings.padding == "zeros":
            return torch.full(ids_BL.shape[:1], ids_BL.shape[1])
        present_BL = ids_BL != PADDING  # padding is at the end only, and no packet has its id
        return present_BL.sum(dim=1).clamp(min=1).cpu()  # packing needs at least one packet

    def _fuse(self, temporal_KPF: Tensor, like: PackedSequence) -> PackedSequence:
        if self.settings.fusion == "concatenate":
            return like._replace(data=temporal_KPF.transpose(0, 1).flatten(1))
        padded = [_pad(like._replace(data=output_PF)) for output_PF in temporal_KPF]
        joined = _pack_end_to_end(torch.stack([part for part, _ in padded], dim=1), padded[0][1])
        return joined._replace(sorted_indices=like.sorted_indices, unsorted_indices=like.unsorted_indices)


@torch.inference_mode()
def equal_rows(network: AdaptiveEnsemble) -> int:
    """The least number of flows whose multiples all give a flow the same bits, found by trying it on this processor.

    A matrix product of few rows is another function than one of many: it may add in another order. From a few rows on,
    MKL's products give each row the same bits wherever it is and however many there are, if their number is a multiple
    of its kernels' rows: 4 with AVX, AVX2 and AVX-512, 8 with SSE2.
    """
    sizes = {name: cast("nn.Embedding", table).num_embeddings for name, table in network.embeddings.items()}
    steps_64 = torch.arange(2 * _TRIED).reshape(_TRIED, 2)
    ids = {name: 1 + (7 * at + steps_64) % (size - 1) for at, (name, size) in enumerate(sizes.items())}
    expected = network(ids)
    for rows in (4, 8, 16, 32):
        numbers = range(rows, min(_TRIED, 4 * rows) + 1, rows)
        if all(torch.equal(network({key: each[:few] for key, each in ids.items()}), expected[:few]) for few in numbers):
            return rows
    return _TRIED


def _exact_sum(x_BSF: Tensor) -> Tensor:
    """``x_BSF.sum(dim=1)``, one step after the other: ``sum`` adds in an order that depends on where a value stands."""
    sum_BF = torch.zeros_like(x_BSF[:, 0])
    for x_BF in x_BSF.unbind(dim=1):
        sum_BF += x_BF
    return sum_BF


def _exact_linear(x_BF: Tensor, layer: nn.Linear) -> Tensor:
    """``layer(x_BF)`` with the same bits for a row whatever the others and the number of threads, among which a matrix
    product divides the few columns of the classes."""
    rows = max(1, _MOST_FACTORS // layer.weight.numel())
    sums = [(part_BF.unsqueeze(1) * layer.weight).sum(dim=2) for part_BF in x_BF.float().split(rows)]
    return torch.cat(sums) + layer.bias


def _bi_lstm(input_size: int, settings: config.Model) -> nn.LSTM:
    return nn.LSTM(input_size, settings.hidden_size, settings.layers, batch_first=True, bidirectional=True)


def _pack(padded: Sequence[Tensor], lengths_B: Tensor) -> list[PackedSequence]:
    """``pack_padded_sequence`` of tensors (B, L) whose flows have the same lengths, without waiting for the device."""
    descending_B, order_B = torch.sort(lengths_B, descending=True)
    device = padded[0].device
    order, inverse = (index_B.to(device, non_blocking=True) for index_B in (order_B, order_B.argsort()))
    return [
        pack_padded_sequence(ids_BL.index_select(0, order), descending_B, batch_first=True)._replace(
            sorted_indices=order, unsorted_indices=inverse
        )
        for ids_BL in padded
    ]


def _pad(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Padded (B, S, F) and int64 (B,) lengths on the CPU, longest flow first: for another order ``pad_packed_sequence``
    would copy it from the device and wait."""
    return pad_packed_sequence(packed._replace(sorted_indices=None, unsorted_indices=None), batch_first=True)


def _pack_end_to_end(x_BKLF: Tensor, lengths_B: Tensor) -> PackedSequence:
    """The packets of characteristic 0, then those of characteristic 1 …, with no padding between, longest first."""
    B, K, L, F = x_BKLF.shape
    steps_S = torch.arange(K * L).unsqueeze(0)
    characteristic_BS = (steps_S // lengths_B.unsqueeze(1)).clamp(max=K - 1)
    packet_BS = (steps_S % lengths_B.unsqueeze(1)).clamp(max=L - 1)
    index_BS = (characteristic_BS * L + packet_BS).to(x_BKLF.device, non_blocking=True)
    joined_BSF = x_BKLF.reshape(B, K * L, F).gather(1, index_BS.unsqueeze(2).expand(B, K * L, F))
    return pack_padded_sequence(joined_BSF, K * lengths_B, batch_first=True)
