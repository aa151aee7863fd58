"""The layers: their size, and that they compute on the packets that are there and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from iotid import config
from iotid.model.network import ensemble, lstm
from iotid.model.network.ensemble import AdaptiveEnsemble
from iotid.model.network.shapes import shapes

_ALL = [(fusion, readout) for fusion in ("concatenate", "sequence") for readout in ("mean", "last")]


def _settings(fusion: str = "concatenate", readout: str = "mean", **changes: object) -> config.Model:
    sizes = {"embedding_size": 5, "hidden_size": 6, "layers": 2, "dropout": 0.3}
    plain = {**sizes, "fusion": fusion, "readout": readout, "padding": "ignored", "sequence_counts": False}
    return config.Model.model_validate({**plain, **changes})


def _model(settings: config.Model, characteristics: int = 2) -> AdaptiveEnsemble:
    torch.manual_seed(1)
    sizes = {f"c{number}": 20 + number for number in range(characteristics)}
    return AdaptiveEnsemble(settings, sizes, num_classes=4).eval()


def _flows(lengths: list[int], width: int, characteristics: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    ids = {f"c{number}": torch.randint(1, 20, (len(lengths), 64))[:, :width] for number in range(characteristics)}
    there = torch.arange(width).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
    return {name: ids_BL * there for name, ids_BL in ids.items()}


def _reference(model: AdaptiveEnsemble, flow: dict[str, torch.Tensor]) -> torch.Tensor:
    """Reference implementation: one flow alone, without batch, padding or packing."""
    temporal = []
    for name, ids_L in flow.items():
        real = (ids_L if model.settings.padding == "zeros" else ids_L[ids_L != 0]).unsqueeze(0)
        temporal.append(model.temporal[name](model.embeddings[name](real))[0])
    along = 2 if model.settings.fusion == "concatenate" else 1
    output, (state, _) = model.spatial(torch.cat(temporal, dim=along))
    summary = output.mean(dim=1) if model.settings.readout == "mean" else torch.cat([state[-2], state[-1]], dim=1)
    return model.classifier(summary)[0]


def test_parameters__paper_settings_give_the_number_worked_out_by_hand() -> None:
    settings = config.load_settings(["paper.yaml"]).model
    model = AdaptiveEnsemble(settings, {"packet_length": 1_502, "tcp_window": 65_538}, num_classes=15)
    embeddings = (1_502 + 65_538) * 256  # 17,162,240
    # an LSTM layer of 256 units one way on i inputs: 4 gates, each i weights + 256 weights + 2 biases a unit
    temporal = 2 * 4 * 256 * (256 + 256 + 2) + 2 * 4 * 256 * (512 + 256 + 2)  # 2,629,632 each
    spatial = 2 * 4 * 256 * (1024 + 256 + 2) + 2 * 4 * 256 * (512 + 256 + 2)  # 4,202,496
    linear = 512 * 15 + 15
    assert embeddings + 2 * temporal + spatial + linear == 26_631_695
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_631_695


@pytest.mark.parametrize(("fusion", "readout"), _ALL)
def test_forward__equals_each_flow_computed_alone_without_padding(fusion: str, readout: str) -> None:
    model = _model(_settings(fusion, readout))
    lengths = [3, 1, 8, 5, 8]
    flows = _flows(lengths, 8)
    alone = torch.stack([_reference(model, {name: ids[i] for name, ids in flows.items()}) for i in range(len(lengths))])
    torch.testing.assert_close(model(flows), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fusion", "readout"), _ALL)
def test_forward__reads_padding_as_zeros_if_set(fusion: str, readout: str) -> None:
    model = _model(_settings(fusion, readout, padding="zeros"))
    lengths = [3, 1, 8, 0]
    flows = _flows(lengths, 9)
    alone = torch.stack([_reference(model, {name: ids[i] for name, ids in flows.items()}) for i in range(len(lengths))])
    torch.testing.assert_close(model(flows), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fusion", "readout"), _ALL)
def test_forward__padding_to_8_or_to_32_gives_the_same_logits(fusion: str, readout: str) -> None:
    model = _model(_settings(fusion, readout))
    flows = _flows([3, 1, 8, 5], 8)
    wider = {name: nn.functional.pad(ids, (0, 24)) for name, ids in flows.items()}
    assert next(iter(wider.values())).shape == (4, 32)
    torch.testing.assert_close(model(wider), model(flows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", ["concatenate", "sequence"])
def test_forward__every_packet_and_every_characteristic_matters(fusion: str) -> None:
    model, flows = _model(_settings(fusion), characteristics=3), _flows([4], 4, characteristics=3)
    before = model(flows)
    for name, packet in [(name, packet) for name in flows for packet in range(4)]:
        changed = {other: ids.clone() for other, ids in flows.items()}
        changed[name][0, packet] = changed[name][0, packet] % 18 + 1
        assert not torch.allclose(model(changed), before, atol=1e-7), (name, packet)


@pytest.mark.parametrize("characteristics", [1, 2, 5])
@pytest.mark.parametrize("fusion", ["concatenate", "sequence"])
def test_forward__takes_any_number_of_characteristics(characteristics: int, fusion: str) -> None:
    model = _model(_settings(fusion), characteristics)
    assert model(_flows([2, 7], 7, characteristics)).shape == (2, 4)


@pytest.mark.parametrize("padding", ["ignored", "zeros"])
@pytest.mark.parametrize(("fusion", "readout"), _ALL)
def test_forward__on_a_gpu_computes_what_it_does_on_the_cpu(
    fusion: str, readout: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, flows = _model(_settings(fusion, readout, padding=padding)), _flows([3, 1, 8, 5, 8], 8)
    lengths_B = torch.tensor([8] * 5 if padding == "zeros" else [3, 1, 8, 5, 8])
    learned = list(model.parameters())
    expected = model(flows)
    wanted = torch.autograd.grad(expected.square().sum(), learned)
    for module in (ensemble, lstm):
        monkeypatch.setattr(module, "uses_torch_lstm", lambda device: True)
    found = model(flows, lengths_B)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), learned), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", ["ignored", "zeros"])
@pytest.mark.parametrize(("fusion", "readout"), _ALL)
def test_forward__never_waits_for_a_device_if_lengths_are_given(fusion: str, readout: str, padding: str) -> None:
    """What is on the device `meta` has no values, so reading any of it fails; on a GPU that would be waiting."""
    model = _model(_settings(fusion, readout, padding=padding)).train().to("meta")
    ids = {name: ids_BL.to("meta") for name, ids_BL in _flows([3, 1, 8, 5, 8], 8).items()}
    if padding == "ignored":
        with pytest.raises(NotImplementedError, match="no data"):
            model(ids)
    model(ids, torch.tensor([3, 1, 8, 5, 8])).sum().backward()


def test_forward__a_flow_of_no_packets_gives_finite_logits() -> None:
    assert torch.isfinite(_model(_settings())(_flows([0, 3], 3))).all()


@pytest.mark.parametrize("padding", ["ignored", "zeros"])
def test_backward__padding_is_not_learned(padding: str) -> None:
    model = _model(_settings(padding=padding))
    model(_flows([2, 5], 5)).sum().backward()
    for embedding in model.embeddings.values():
        assert embedding.weight.grad is not None
        assert not embedding.weight.grad[0].any()
        assert embedding.weight.grad.any()


@pytest.mark.parametrize(
    ("fusion", "layers"), [("concatenate", 1), ("concatenate", 3), ("sequence", 1), ("sequence", 2)]
)
@pytest.mark.parametrize("characteristics", [1, 3])
def test_shapes__are_those_of_the_state(fusion: str, layers: int, characteristics: int) -> None:
    settings = _settings(fusion, layers=layers)
    sizes = {f"c{number}": 20 + number for number in range(characteristics)}
    state = _model(settings, characteristics).state_dict()
    assert shapes(settings, sizes, 4) == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_exact_sigmoid__has_the_same_bits_wherever_a_value_stands(three_threads: None) -> None:
    x = 4 * torch.randn(100_003, generator=torch.Generator().manual_seed(1))
    whole = x.clone()
    lstm._exact_sigmoid(whole)
    torch.testing.assert_close(whole, torch.sigmoid(x))
    for part in (7, 33_000):
        pieces = x.clone()
        for piece in pieces.split(part):
            lstm._exact_sigmoid(piece)
        assert torch.equal(pieces, whole)
    far = torch.tensor([-200.0, 200.0])
    lstm._exact_sigmoid(far)
    assert far.tolist() == [0, 1]


@pytest.mark.parametrize(("features", "classes"), [(512, 34), (10, 3), (2, 1)])
def test_exact_linear__has_the_same_bits_for_a_row_alone(features: int, classes: int, three_threads: None) -> None:
    torch.manual_seed(1)
    layer, x_BF = nn.Linear(features, classes), torch.randn(90, features)
    with torch.inference_mode():
        whole = ensemble._exact_linear(x_BF, layer)
        torch.testing.assert_close(whole, layer(x_BF))
        assert torch.equal(torch.cat([ensemble._exact_linear(row.unsqueeze(0), layer) for row in x_BF]), whole)


def test_exact_sum__has_the_same_bits_for_a_row_alone_and_padded(three_threads: None) -> None:
    x_BSF = torch.randn(30, 19, 10, generator=torch.Generator().manual_seed(1))
    whole = ensemble._exact_sum(x_BSF)
    torch.testing.assert_close(whole, x_BSF.sum(dim=1))
    padded = torch.cat([x_BSF, torch.zeros(30, 40, 10)], dim=1)
    assert torch.equal(torch.cat([ensemble._exact_sum(row.unsqueeze(0)) for row in padded]), whole)


def test_equal_rows__are_the_least_that_give_a_flow_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(_settings(hidden_size=32))
    found = ensemble.equal_rows(model)
    assert found in (4, 8, 16, 32, 64)
    original = AdaptiveEnsemble.forward

    def few_differ(self: AdaptiveEnsemble, ids: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = len(next(iter(ids.values())))
        return original(self, ids) + (1e-3 if rows < 12 else 0)

    monkeypatch.setattr(AdaptiveEnsemble, "forward", few_differ)
    assert ensemble.equal_rows(model) == max(found, 16)
