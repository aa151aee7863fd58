"""Runs several stacked bi-LSTMs at the same time: one step of all networks is one matrix product.

The same function as `torch.nn.LSTM`, whose modules hold the weights. On CPUs torch computes each direction of each
network separately, and sums the recurrent weights' gradient step by step, over the few flows that reach a late step.
Here all directions are one product, that gradient is one product over all packets, and equal values are projected once.

Shape suffixes: P packets of all flows in a PackedSequence's order (all first ones, all second ones …), G networks,
T = 2·G: each network's forward, then its backward direction, I inputs, H hidden units, F = 4·H: the gates input,
forget, cell and output, as torch orders them, B flows, longest first, L steps, U distinct inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


def run_lstms(
    networks: Sequence[nn.LSTM], inputs: Sequence[Tensor], packed: PackedSequence, rows: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs (G, P, 2H) of stacked bi-LSTMs of one shape, and the last states of both directions (G, B, 2H).

    ``inputs``: (P, I) for each network; or, with ``rows``, (U, I) distinct inputs, and ``rows`` (P,) the row of each
    packet. ``packed``: positions of the packets; its data is not read. The last states are in the original order of the
    flows.
    """
    if uses_torch_lstm(packed.data.device):
        return _run_one_by_one(networks, inputs, packed, rows)
    order = _Order.of(packed)
    if rows is None:
        gates_TPF = _project(networks, 0, torch.stack(list(inputs)), order)
    else:
        gates_TPF = _project_rows(networks, inputs, rows, order)
    for layer in range(1, networks[0].num_layers + 1):
        hidden_TPH: Tensor = _Recurrence.apply(gates_TPF, _weights(networks, f"weight_hh_l{layer - 1}"), order)
        outputs_GPI = torch.cat([hidden_TPH[0::2], _Reverse.apply(hidden_TPH[1::2], order.reversed_index)], dim=2)
        if layer < networks[0].num_layers:
            gates_TPF = _project(networks, layer, outputs_GPI, order)
    last_TBH = hidden_TPH.index_select(1, order.last[packed.unsorted_indices])
    return outputs_GPI, torch.cat([last_TBH[0::2], last_TBH[1::2]], dim=2)


def uses_torch_lstm(device: torch.device) -> bool:
    """Whether the networks run one after the other by `torch.nn.LSTM`: it has fused kernels for GPUs (cuDNN)."""
    return device.type != "cpu"


def _run_one_by_one(
    networks: Sequence[nn.LSTM], inputs: Sequence[Tensor], packed: PackedSequence, rows: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    outputs, last = [], []
    for at, network in enumerate(networks):
        x_PI = inputs[at] if rows is None else functional.embedding(rows[at], inputs[at])
        output, (state, _) = network(packed._replace(data=x_PI))
        outputs.append(output.data)
        last.append(torch.cat([state[-2], state[-1]], dim=1))
    return torch.stack(outputs), torch.stack(last)


class _Order(NamedTuple):
    """Positions of flows among the packets of a PackedSequence."""

    flows: list[int]  # (L,) number of flows with a packet at each step
    before: Tensor  # for each packet after the first step, position of its flow's previous packet
    reversed_index: Tensor  # (P,) position of each packet if flows are reversed; its own inverse
    last: Tensor  # (B,) position of each flow's last packet

    @classmethod
    def of(cls, packed: PackedSequence) -> _Order:
        flows_L = packed.batch_sizes
        start_L = flows_L.cumsum(0) - flows_L
        step_P = torch.repeat_interleave(flows_L)
        flow_P = torch.arange(len(step_P)) - start_L[step_P]
        length_B = torch.bincount(flow_P)
        reversed_P = start_L[length_B[flow_P] - 1 - step_P] + flow_P
        later = slice(int(flows_L[0]), None)
        before = start_L[step_P[later] - 1] + flow_P[later]
        return cls(flows_L.tolist(), before, reversed_P, start_L[length_B - 1] + torch.arange(len(length_B)))


def _project_rows(
    networks: Sequence[nn.LSTM], tables: Sequence[Tensor], rows: Sequence[Tensor], order: _Order
) -> Tensor:
    """The first layer's gates (T, P, F) before the recurrent part; each row of a table is multiplied once."""
    gates = []
    for network, table_UI, rows_P in zip(networks, tables, rows, strict=True):
        weight_2FI = _weights([network], "weight_ih_l0")
        bias_2F = torch.stack([_bias(network, f"l0{suffix}") for suffix in ("", "_reverse")])
        own_UI = functional.pad(table_UI, (0, 0, 0, -len(table_UI) % _multiple(weight_2FI[0])))
        own_2UF = torch.baddbmm(bias_2F.unsqueeze(1), own_UI.expand(2, -1, -1), weight_2FI.transpose(1, 2))
        for at_P, own_UF in zip((rows_P, rows_P[order.reversed_index]), own_2UF, strict=True):
            gates.append(functional.embedding(at_P, own_UF))
    return torch.stack(gates)


def _multiple(weight_FI: Tensor) -> int:
    """A number of rows whose multiples all have the same bits in a product with these weights.

    Sixteen, as `ensemble.equal_rows` finds four or eight; more for tiny weights, because torch computes a product of
    fewer than 400 multiplications by a loop of its own.
    """
    return 16 * -(-25 // weight_FI.numel())


def _project(networks: Sequence[nn.LSTM], layer: int, x_GPI: Tensor, order: _Order) -> Tensor:
    """A layer's gates (T, P, F) before the recurrent part."""
    both_TPI = torch.stack([x_GPI, _Reverse.apply(x_GPI, order.reversed_index)], dim=1).flatten(0, 1)
    bias_TF = torch.stack([_bias(net, f"l{layer}{suffix}") for net in networks for suffix in ("", "_reverse")])
    weight_TFI = _weights(networks, f"weight_ih_l{layer}")
    return torch.baddbmm(bias_TF.unsqueeze(1), both_TPI, weight_TFI.transpose(1, 2))


def _weights(networks: Sequence[nn.LSTM], name: str) -> Tensor:
    return torch.stack([getattr(network, name + suffix) for network in networks for suffix in ("", "_reverse")])


def _bias(network: nn.LSTM, name: str) -> Tensor:
    bias_F: Tensor = getattr(network, f"bias_ih_{name}") + getattr(network, f"bias_hh_{name}")
    return bias_F


class _Reverse(torch.autograd.Function):
    """Each flow's packets in reverse order; the gradient is a selection, where index_select's is a sum."""

    @staticmethod
    def forward(ctx: Any, x_GPI: Tensor, reversed_P: Tensor) -> Tensor:
        ctx.reversed_P = reversed_P
        return x_GPI.index_select(1, reversed_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_GPI: Tensor) -> tuple[Tensor, None]:
        return d_GPI.index_select(1, ctx.reversed_P), None


class _Recurrence(torch.autograd.Function):
    """Hidden states (T, P, H) from gates (T, P, F) without their recurrent part and its weights (T, F, H).

    The gates are overwritten with their activations: nothing else reads them, and they are the largest tensor here.
    Under autocast only the factors of products have the lower precision; states and sums have that of the weights.
    """

    @staticmethod
    def forward(ctx: Any, gates_TPF: Tensor, weight_TFH: Tensor, order: _Order) -> Tensor:
        lower = torch.is_autocast_enabled("cpu")
        ctx.factors = torch.get_autocast_dtype("cpu") if lower else weight_TFH.dtype
        gates_TPF, size = gates_TPF.to(weight_TFH.dtype), weight_TFH.shape[2]
        weight_THF = weight_TFH.transpose(1, 2).to(ctx.factors)
        hidden_TPH = gates_TPF.new_empty(*gates_TPF.shape[:2], size)
        cell_TPH = torch.empty_like(hidden_TPH)
        sigmoid = _exact_sigmoid if torch.is_inference_mode_enabled() else torch.sigmoid_
        start = before = 0
        for flows in order.flows:
            here, there = slice(start, start + flows), slice(before, before + flows)
            gates_TBF, cell_TBH, hidden_TBH = gates_TPF[:, here], cell_TPH[:, here], hidden_TPH[:, here]
            if start:
                _add_product(gates_TBF, hidden_TPH[:, there], weight_THF)
            sigmoid(gates_TBF[..., : 2 * size])
            gates_TBF[..., 2 * size : 3 * size].tanh_()
            sigmoid(gates_TBF[..., 3 * size :])
            entry, forget, new, output = gates_TBF.chunk(4, dim=2)
            torch.mul(entry, new, out=cell_TBH)
            if start:
                cell_TBH.addcmul_(forget, cell_TPH[:, there])
            torch.tanh(cell_TBH, out=hidden_TBH)
            hidden_TBH.mul_(output)
            start, before = start + flows, start
        ctx.save_for_backward(weight_TFH, gates_TPF, cell_TPH, hidden_TPH)
        ctx.order = order
        return hidden_TPH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden_TPH: Tensor) -> tuple[Tensor, Tensor, None]:
        weight_TFH, gates_TPF, cell_TPH, hidden_TPH = ctx.saved_tensors
        weight_TFH = weight_TFH.to(ctx.factors)
        order: _Order = ctx.order
        first = order.flows[0]
        entry, forget, new, output = gates_TPF.chunk(4, dim=2)
        squashed_TPH = cell_TPH.tanh()
        through_TPH = torch.addcmul(output, output * squashed_TPH, squashed_TPH, value=-1)  # d hidden / d cell
        # factors of the gradient of the cell; for the last gate, of the gradient of the hidden state
        d_gates_TPF = torch.empty_like(gates_TPF)
        d_entry, d_forget, d_new, d_output = d_gates_TPF.chunk(4, dim=2)
        torch.mul(new, entry * (1 - entry), out=d_entry)
        d_forget[:, :first].zero_()
        kept = forget[:, first:]
        torch.mul(cell_TPH.index_select(1, order.before), kept * (1 - kept), out=d_forget[:, first:])
        torch.mul(entry, 1 - new * new, out=d_new)
        torch.mul(squashed_TPH, output * (1 - output), out=d_output)
        d_hidden_TPH = d_hidden_TPH.clone(memory_format=torch.contiguous_format)
        d_cell_TPH = torch.empty_like(cell_TPH)
        end = d_gates_TPF.shape[1]
        later = slice(end, end)
        for flows in reversed(order.flows):
            here, size = slice(end - flows, end), later.stop - later.start
            goes_on = slice(here.start, here.start + size)
            if size:
                _add_product(d_hidden_TPH[:, goes_on], d_gates_TPF[:, later], weight_TFH)
            torch.mul(d_hidden_TPH[:, here], through_TPH[:, here], out=d_cell_TPH[:, here])
            if size:
                d_cell_TPH[:, goes_on].addcmul_(d_cell_TPH[:, later], forget[:, later])
            by_gate = d_gates_TPF[:, here].unflatten(2, (4, -1))
            by_gate[:, :, :3].mul_(d_cell_TPH[:, here].unsqueeze(2))
            by_gate[:, :, 3].mul_(d_hidden_TPH[:, here])
            end, later = here.start, here
        before_THP = hidden_TPH.index_select(1, order.before).transpose(1, 2).to(ctx.factors)
        d_weight_THF = before_THP @ d_gates_TPF[:, first:].to(ctx.factors)
        return d_gates_TPF, d_weight_THF.transpose(1, 2).to(d_gates_TPF.dtype), None


def _exact_sigmoid(x: Tensor) -> None:
    """The sigmoid in place, with the same bits wherever a value stands.

    ``torch.sigmoid`` rounds what does not fill a vector, the end of a row or of a thread's share, differently.
    """
    x.neg_().exp_().add_(1).reciprocal_()


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, computed in the type of b, which is lower under autocast."""
    if b.dtype == to.dtype:
        to.baddbmm_(a, b)
    else:
        to.add_(torch.bmm(a.to(b.dtype), b))
