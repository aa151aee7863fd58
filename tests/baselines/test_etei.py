"""ETEI: the network's shape, that it learns and repeats itself, and which bytes are ports and checksums."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid.baselines.etei import Etei, without_ports
from iotid.errors import SettingError

_SMALL: dict[str, Any] = {"packets": 4, "packet_bytes": 64, "hidden_size": 8, "epochs": 12, "batch_size": 32}


def _toy(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which each of three classes has a bright packet of its own."""
    dice = np.random.default_rng(seed)
    label_N = dice.integers(0, 3, rows)
    bytes_NKB = dice.integers(0, 120, (rows, 4, 64), dtype=np.uint8)
    bytes_NKB[np.arange(rows), label_N] += 100
    return bytes_NKB.reshape(rows, 256), label_N


def _fitted(seed: int = 1, **changes: Any) -> Etei:
    bytes_ND, label_N = _toy(5, 150)
    return Etei(seed, **_SMALL | changes).fit(bytes_ND, label_N, np.ones(150, np.int64), 3)


def test_fit__learns_a_toy_problem() -> None:
    bytes_ND, label_N = _toy(6, 100)
    answers_NC = _fitted(learning_rate=0.003).probabilities(bytes_ND)
    assert answers_NC.dtype == np.float64
    assert answers_NC.sum(axis=1) == pytest.approx(1)
    assert (answers_NC.argmax(axis=1) == label_N).mean() > 0.9


def test_fit__same_seed_same_answers_and_the_common_generator_stays_as_it_was() -> None:
    bytes_ND, _ = _toy(6, 40)
    before = torch.get_rng_state()
    first, again, other = (_fitted(seed, epochs=2).probabilities(bytes_ND) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_fit__a_row_of_many_flows_is_drawn_as_its_copies_are() -> None:
    bytes_ND, label_N = _toy(7, 40)
    num_flows_N = np.arange(40) % 4
    baseline = Etei(1, **_SMALL | {"epochs": 2})
    expected = baseline.fit(bytes_ND, label_N, num_flows_N, 3).probabilities(bytes_ND)
    copies = [np.repeat(values, num_flows_N, axis=0) for values in (bytes_ND, label_N)]
    assert (baseline.fit(*copies, np.ones(len(copies[0]), np.int64), 3).probabilities(bytes_ND) == expected).all()


def test_probabilities__do_not_depend_on_the_rows_beside_and_name_classes_never_seen() -> None:
    bytes_ND, label_N = _toy(5, 70)
    baseline = Etei(1, **_SMALL | {"epochs": 1}).fit(bytes_ND, label_N, np.ones(70, np.int64), 5)
    answers_NC = baseline.probabilities(bytes_ND)
    assert answers_NC.shape == (70, 5)
    assert baseline.probabilities(bytes_ND[33:34]) == pytest.approx(answers_NC[33:34], abs=1e-6)
    assert baseline.probabilities(bytes_ND[:0]).shape == (0, 5)
    assert baseline.origin


def test_network__of_the_papers_size_has_the_parameters_counted_by_hand() -> None:
    convolutions = (6 * 1 * 5 * 5 + 6) + (16 * 6 * 5 * 5 + 16)
    dense = 9 * 9 * 16 * 1600 + 1600  # 50 - 4 = 46, 23, 19, 9
    lstms = [2 * (4 * 512 * (inputs + 512) + 2 * 4 * 512) for inputs in (160, 2 * 512)]  # torch has two biases
    network = Etei(1)._new_network(18)
    assert sum(each.numel() for each in network.parameters()) == convolutions + dense + sum(lstms) + 1024 * 18 + 18
    assert network(torch.zeros(2, 1, 50, 50)).shape == (2, 18)


def test_network__starts_with_open_forget_gates_and_without_other_biases() -> None:
    named = dict(Etei(1, **_SMALL)._new_network(3).named_parameters())
    biases = {name: each for name, each in named.items() if "bias" in name}
    assert sum(float(each.detach().sum()) for each in biases.values()) == 4 * 8  # 2 layers of 2 directions of 8 units
    for name in (name for name in biases if "bias_ih" in name):
        assert (biases[name][8:16] == 1).all()
    recurrent = next(each for name, each in named.items() if "weight_hh" in name)
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("packets", "packet_bytes"), [(10, 251), (3, 75)])
def test_etei__bytes_that_make_no_square_or_too_small_a_one_are_refused(packets: int, packet_bytes: int) -> None:
    with pytest.raises(SettingError, match=rf"square of 16 or more, got {packets} \* {packet_bytes}"):
        Etei(1, packets=packets, packet_bytes=packet_bytes)


def _four(protocol: int, *, words: int = 5, fragment: int = 0) -> bytes:
    """An IPv4 header whose checksum and addresses are not zero."""
    fixed = struct.pack(">BBHHHBBH", 4 << 4 | words, 1, 99, 7, fragment, 64, protocol, 0xAAAA)
    return fixed + b"\x01" * (words * 4 - 12)


def _six(following: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28 | 1, 99, following, 64) + b"\x01" * 32


_HOP = b"\x3c\x01" + b"\x01" * 14  # then destination options
_DESTINATION = b"\x33\x00" + b"\x01" * 6  # then an authentication header
_AUTHENTICATION = b"\x11\x02" + b"\x01" * 14  # then UDP
_FIRST, _LATER = b"\x06\xee\x00\x01" + b"\x01" * 4, b"\x06\xee\x00\x09" + b"\x01" * 4  # then TCP


@pytest.mark.parametrize(
    ("header", "zeroed"),
    [
        (_four(6), {10, 11, 20, 21, 22, 23, 36, 37}),
        (_four(6, words=7), {10, 11, 28, 29, 30, 31, 44, 45}),
        (_four(17), {10, 11, 20, 21, 22, 23, 26, 27}),
        (_four(17, fragment=0x2000), {10, 11, 20, 21, 22, 23, 26, 27}),
        (_four(17, fragment=0x2001), {10, 11}),
        (_four(1), {10, 11}),
        (_six(6), {40, 41, 42, 43, 56, 57}),
        (_six(17), {40, 41, 42, 43, 46, 47}),
        (_six(0) + _HOP + _DESTINATION + _AUTHENTICATION, {80, 81, 82, 83, 86, 87}),
        (_six(44) + _FIRST, {48, 49, 50, 51, 64, 65}),
        (_six(44) + _LATER, set()),
        (_six(58), set()),
        (b"\x00" * 3, set()),
    ],
    ids=[
        "IPv4 TCP", "options", "IPv4 UDP", "first fragment", "later fragment", "ICMP", "IPv6 TCP", "IPv6 UDP",
        "extension headers", "IPv6 first fragment", "IPv6 later fragment", "ICMPv6", "padding",
    ],
)  # fmt: skip
def test_without_ports__zeroes_exactly_ports_and_checksums(header: bytes, zeroed: set[int]) -> None:
    whole = header.ljust(100, b"\xdd")
    for size in (100, 82, 43, 21):  # wherever the bytes kept end
        packet = np.frombuffer(whole[:size], np.uint8)
        other = np.full(size, 0xFF, np.uint8)  # of no IP version
        given = np.stack([np.concatenate([packet, other]), np.concatenate([other, packet])])
        changed = without_ports(given, 2)
        kept = [place for place in zeroed if place < size]
        assert set(np.flatnonzero(changed[0] != given[0])) == set(kept)
        assert (changed[0, kept] == 0).all()
        assert (changed[1, size:] == changed[0, :size]).all()
        assert (changed[1, :size] == other).all()


@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=80, max_size=80), version=st.sampled_from([4, 6]), following=st.integers(0, 60))
def test_without_ports__any_bytes_come_out_as_they_were_or_zero(data: bytes, version: int, following: int) -> None:
    given_ND = np.frombuffer(data, np.uint8).reshape(1, 80).copy()
    given_ND[0, 0] = version << 4 | given_ND[0, 0] & 15
    given_ND[0, 6 if version == 6 else 9] = following
    told_ND = without_ports(given_ND, 1)
    assert ((told_ND == given_ND) | (told_ND == 0)).all()
    assert (told_ND != given_ND).sum() <= 8


def test_fit__without_ports_sees_no_ports() -> None:
    dice = np.random.default_rng(1)
    label_N = dice.integers(0, 2, 60)
    packet = np.frombuffer(_four(6).ljust(64, b"\x55"), np.uint8)
    bytes_ND = np.tile(packet, (60, 4))
    bytes_ND[:, 20:24] = np.where(label_N[:, np.newaxis] == 1, 250, 3)
    spread = {}
    for ports in (True, False):
        baseline = Etei(1, **_SMALL | {"ports": ports, "learning_rate": 0.003, "epochs": 30})
        answers_NC = baseline.fit(bytes_ND, label_N, np.ones(60, np.int64), 2).probabilities(bytes_ND)
        spread[ports] = np.ptp(answers_NC[:, 0])
    assert spread[True] > 0.5
    assert spread[False] < 1e-6
