"""The networks read side by side against torch's own LSTM: same outputs, same last states, same gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from iotid.model.network.lstm import run_lstms

_VALUES = 11


def _networks(count: int, inputs: int, hidden: int, layers: int) -> list[nn.LSTM]:
    torch.manual_seed(1)
    return [nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=True).double() for _ in range(count)]


def _packed(lengths: list[int], seed: int) -> PackedSequence:
    torch.manual_seed(seed)
    ids_BL = torch.randint(0, _VALUES, (len(lengths), max(lengths)))
    return pack_padded_sequence(ids_BL, torch.tensor(lengths), batch_first=True, enforce_sorted=False)


def _by_torch(networks: list[nn.LSTM], inputs: list[Tensor], like: PackedSequence) -> tuple[Tensor, Tensor]:
    read = [network(like._replace(data=x_PI)) for network, x_PI in zip(networks, inputs, strict=True)]
    last = [torch.cat([state[-2], state[-1]], dim=1) for _, (state, _) in read]
    return torch.stack([output.data for output, _ in read]), torch.stack(last)


def _gradients(outputs: tuple[Tensor, Tensor], of: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    return list(torch.autograd.grad(sum((x * torch.randn_like(x)).sum() for x in outputs), of))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    count=st.integers(1, 3),
    layers=st.integers(1, 3),
    hidden=st.integers(1, 5),
)
def test_run_lstms__equals_torch(lengths: list[int], count: int, layers: int, hidden: int) -> None:
    networks = _networks(count, 4, hidden, layers)
    packed = [_packed(lengths, seed) for seed in range(count)]
    rows = [each.data for each in packed]
    tables = [torch.randn(_VALUES, 4, dtype=torch.float64, requires_grad=True) for _ in networks]
    learned = [*tables, *(parameter for network in networks for parameter in network.parameters())]
    spread = [table[row] for table, row in zip(tables, rows, strict=True)]
    expected = _by_torch(networks, spread, packed[0])
    wanted = _gradients(expected, learned)
    for found in (
        run_lstms(networks, tables, packed[0], rows),
        run_lstms(networks, [table[row] for table, row in zip(tables, rows, strict=True)], packed[0]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(_gradients(found, learned), wanted, rtol=1e-9, atol=1e-11)


def test_run_lstms__needs_no_gradients() -> None:
    networks, packed = _networks(2, 4, 3, 2), _packed([3, 5, 1], 0)
    tables = [torch.randn(_VALUES, 4, dtype=torch.float64) for _ in networks]
    with torch.inference_mode():
        found = run_lstms(networks, tables, packed, [packed.data] * 2)
        expected = _by_torch(networks, [table[packed.data] for table in tables], packed)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("direct", [False, True])
def test_run_lstms__under_autocast_only_rounds(direct: bool) -> None:
    networks, packed = [network.float() for network in _networks(2, 4, 6, 2)], _packed([3, 8, 1, 8, 5], 0)
    tables = [torch.randn(_VALUES, 4, requires_grad=True) for _ in networks]
    learned = [*tables, *(parameter for network in networks for parameter in network.parameters())]

    def read() -> tuple[Tensor, Tensor]:
        if direct:
            return run_lstms(networks, [table[packed.data] for table in tables], packed)
        return run_lstms(networks, tables, packed, [packed.data] * 2)

    exact = read()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = read()
    assert not torch.equal(rounded[0], exact[0])  # it took effect
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)
    for near, true in zip(_gradients(rounded, learned), _gradients(exact, learned), strict=True):
        assert near.dtype == torch.float32
        torch.testing.assert_close(near, true, rtol=0, atol=0.02 * max(1.0, float(true.abs().max())))
