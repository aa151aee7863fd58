"""DIoT: symbols and windows by hand, the network against torch's own, and two devices that talk in turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iotid.baselines import diot
from iotid.baselines.diot import Diot
from tests.baselines.toy_captures import at, captures_of, packets


def test_features__seven_features_of_each_packet(flow_table: Any) -> None:
    """A packet differs from the first where, and only where, one feature does."""
    usual = {"client_port": 50_000, "server_port": 443, **at(0)}
    variants = [
        usual | packets(10),
        usual | packets(-10),  # direction
        usual | packets(10) | {"client_port": 2000},  # local port
        usual | packets(10) | {"server_port": 8080},  # remote port
        usual | packets(11),  # length
        usual | packets(10) | {"tcp_flags": [2]},  # flags
        usual | packets(10) | {"protocol": 17},  # protocol
        usual | packets(10) | {"is_client": False, "client_port": 443, "server_port": 50_000, "direction": [-1]},
    ]
    features, unit = diot._features(captures_of(flow_table, [[row] for row in variants]))
    assert unit.tolist() == list(range(8))
    assert len({tuple(row) for row in features[:7].tolist()}) == 7
    assert features[7].tolist() == features[0].tolist()  # the same from the other side


def test_features__waits_have_three_bins(flow_table: Any) -> None:
    gaps = [packets(1, 1, gap_us=gap) for gap in (0, 1, 49, 50, 10**6)]
    features, _ = diot._features(captures_of(flow_table, [[row] for row in gaps]))
    waits = [diot_rest >> 16 for diot_rest in features[1::2, 1].tolist()]
    first = waits[0]
    assert [wait - first for wait in waits] == [0, 1, 1, 2, 2]


def test_frequent_lengths__of_every_kind_the_commonest() -> None:
    length = np.array([*range(100, 120), *range(100, 108), 5, 5, 6])
    label = np.array([0] * 28 + [1] * 3)
    assert diot._frequent_lengths(length, label, 3).tolist() == [0, 5, 6, *range(100, 108)]


def test_windows__each_packet_once_after_the_one_before_it() -> None:
    symbol, unit = np.arange(100, 145), np.array([0] * 22 + [2] * 20 + [3] * 3)
    windows, of = diot._windows(symbol, unit)
    assert of.tolist() == [0, 0, 2, 3]
    assert windows[0].tolist() == [diot._START, *range(100, 120)]
    assert windows[1].tolist() == [119, 120, 121, *[-1] * 18]
    assert windows[2].tolist() == [diot._START, *range(122, 142)]
    assert windows[3, :4].tolist() == [diot._START, 142, 143, 144]
    empty, none = diot._windows(symbol[:0], unit[:0])
    assert (len(empty), len(none)) == (0, 0)


def test_evenly__at_most_so_many_windows_of_each_capture() -> None:
    assert diot._evenly(np.array([0] * 10 + [1] * 2), 3).tolist() == [0, 4, 7, 10, 11]


def test_log_likelihood__equals_torchs_gru_of_each_member() -> None:
    torch.manual_seed(1)
    symbols, members = 7, 3
    weights = {
        name: torch.randn(members, *weight.shape) * 0.3 for name, weight in diot._new_weights(symbols, 1).items()
    }
    windows = torch.randint(0, symbols, (members, 4, diot.WINDOW + 1))
    windows[1, 2, 5:] = -1
    found, shown = diot._log_likelihood(weights, windows)
    assert shown[1, 2].sum() == 4
    for member in range(members):
        gru = torch.nn.GRU(symbols, diot.HIDDEN, diot.LAYERS, batch_first=True)
        own = {name: weight[member] for name, weight in weights.items()}
        for layer in range(diot.LAYERS):
            for theirs, ours in (
                ("weight_ih", own[f"input_{layer}"].T),
                ("weight_hh", own[f"recurrent_{layer}"].T),
                ("bias_ih", own[f"bias_{layer}"][0]),
                ("bias_hh", own[f"bias_{layer}"][1]),
            ):
                getattr(gru, f"{theirs}_l{layer}").data = ours.contiguous()
        given = torch.nn.functional.one_hot(windows[member, :, :-1].clamp(min=0), symbols).float()
        predicted = (gru(given)[0] @ own["output"] + own["output_bias"]).log_softmax(dim=2)
        expected = predicted.gather(2, windows[member, :, 1:].clamp(min=0)[..., None])[..., 0]
        mask = shown[member] > 0
        torch.testing.assert_close(found[member][mask], expected[mask], rtol=1e-4, atol=1e-4)


def _talk(lengths: list[int], flows: int = 4) -> list[dict[str, Any]]:
    return [packets(*lengths * 4) | at(10 * number) for number in range(flows)]


@pytest.fixture
def toy(flow_table: Any) -> tuple[Any, np.ndarray]:
    """Two devices with the same lengths in another order."""
    return captures_of(flow_table, [_talk([5, -6, 7]), _talk([7, -6, 5])] * 3), np.array([0, 2] * 3)


def test_diot__learns_the_order_of_packets_the_same_each_time(toy: Any, flow_table: Any) -> None:
    own, label = toy
    fitted = Diot(1, steps=20).fit(own, label, 3)
    answers = fitted.probabilities(own)
    assert answers.argmax(axis=1).tolist() == label.tolist()
    assert answers.sum(axis=1) == pytest.approx(1)
    np.testing.assert_array_equal(answers, Diot(1, steps=20).fit(own, label, 3).probabilities(own))
    udp = [{"protocol": 17, **packets(9)}]
    others = fitted.probabilities(captures_of(flow_table, [udp, []]))
    assert others.sum(axis=1) == pytest.approx(1)
    assert others[1].tolist() == [0.5, 0, 0.5]  # nothing to read: the shares in training


def test_own_probabilities__are_those_of_the_network_of_each_captures_kind(toy: Any, flow_table: Any) -> None:
    own, label = toy
    fitted = Diot(1, steps=20).fit(own, label, 3)
    of_kind = {kind: fitted.own_probabilities(own, np.full(len(label), kind)) for kind in (0, 2)}
    assert np.unique(of_kind[0][1], return_counts=True)[1].tolist() == [48] * 6, "each packet once"
    sums = np.stack([np.bincount(unit, found, 6) for found, unit in of_kind.values()], axis=1)
    shares = sums / sums.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, fitted.probabilities(own)[:, [0, 2]], rtol=1e-4)
    found, unit = fitted.own_probabilities(own, np.array([0, 2, 1, 2, 1, 2]))
    assert np.unique(unit).tolist() == [0, 1, 3, 5], "no network has learned kind 1"
    np.testing.assert_allclose(found[unit == 1], of_kind[2][0][of_kind[2][1] == 1], rtol=1e-5)
    assert len(fitted.own_probabilities(captures_of(flow_table, [[]]), np.array([0]))[0]) == 0


def test_train__sites_of_a_kind_are_averaged_by_their_packets() -> None:
    """With a single round of one step, the average is that of the sites trained alone."""
    random = np.random.default_rng(1)
    windows = random.integers(0, 5, (40, diot.WINDOW + 1))
    windows[:, 0] = diot._START
    windows[30:, 11:] = -1  # the second site has 10 windows of 10 packets, the first 30 of 20
    windows[:30], windows[30:] = windows[0], windows[30]  # so that it does not matter which are drawn
    site = np.array([0] * 30 + [1] * 10)
    together, kinds = diot._train(windows, site, np.array([4, 4]), 5, seed=1, steps=1)
    assert kinds.tolist() == [4]
    alone = [diot._train(windows[site == each], site[site == each] * 0, np.array([4]), 5, 1, 1)[0] for each in (0, 1)]
    for name, weight in together.items():
        expected = (600 * alone[0][name] + 100 * alone[1][name]) / 700
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_sites__of_the_captures_flows(flow_table: Any) -> None:
    captures = captures_of(flow_table, [[packets(1)], [packets(1)], [packets(1)]])
    assert diot._sites(captures).tolist() == [0, 0, 0]
    import pyarrow as pa

    named = captures.flows.append_column("site", pa.array(["b", "a", "b"]))
    assert diot._sites(type(captures)(named, captures.unit, captures.is_client, 3)).tolist() == [1, 0, 1]
