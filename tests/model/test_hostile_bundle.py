"""A model's files with an array cut, missing, of another type or shape, or not finite: one line that names it."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from iotid.errors import DataError, IotidError
from iotid.model import Predictor
from iotid.model.bundle import DESCRIPTION, WEIGHTS

_LSTM = [f"{kind}_{part}_l0{way}" for kind in ("weight", "bias") for part in ("ih", "hh") for way in ("", "_reverse")]
NETWORK = [
    *[f"embeddings.{name}.weight" for name in ("packet_length", "direction")],
    *[f"temporal.{name}.{part}" for name in ("packet_length", "direction") for part in _LSTM],
    *[f"spatial.{part}" for part in _LSTM],
    "classifier.weight", "classifier.bias",
]  # fmt: skip
LEARNED = [
    *[f"memory.{name}" for name in ("keys", "starts", "labels", "flows", "strength")],
    *[f"devices.tokens.{name}" for name in ("sequences", "packets", "pairs")],
    *[f"devices.first.{name}" for name in ("most_T", "weight_TK", "bias_K", "class_weight_TC", "class_bias_C")],
    *[f"devices.sets.{name}" for name in ("class", "indptr", "indices")],
    *[f"devices.{name}" for name in ("most_at_once", "usually_left", "factors")],
    *[
        f"devices.{meta}.{name}"
        for meta in ("of_host", "of_household", "is_household", "has_unknown")
        for name in ("middle", "spread", "weight", "bias")
    ],
    "answers.keys", "answers.probabilities", "unlike_kind.usual", "unlike_kind.scores",
]  # fmt: skip
EVERY = [*NETWORK, *LEARNED]
WHOLE = [
    *[f"memory.{name}" for name in ("keys", "starts", "labels", "flows")],
    *[f"devices.tokens.{name}" for name in ("sequences", "packets", "pairs")],
    *[f"devices.sets.{name}" for name in ("class", "indptr", "indices")],
    "devices.most_at_once",
    "answers.keys",
]  # fmt: skip


@pytest.fixture(scope="module")
def stored(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "fuzz" / "stored.py")


@pytest.fixture(scope="module")
def named(stored: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = stored.arrays(stored.bundle()[0])
    return found


@pytest.fixture
def fault(stored: ModuleType, tmp_path: Path) -> Callable[..., str]:
    """The one line that a model of these files is refused with, also by those who have them in memory."""

    def refused(weights: bytes | dict[str, Any] | None = None, description: bytes | None = None) -> str:
        own_weights, own_description = stored.bundle()
        content = stored.packed(weights) if isinstance(weights, dict) else weights
        files = (own_weights if content is None else content, own_description if description is None else description)
        (tmp_path / WEIGHTS).write_bytes(files[0])
        (tmp_path / DESCRIPTION).write_bytes(files[1])
        with pytest.raises(IotidError) as caught:
            Predictor.load(tmp_path)
        with pytest.raises(IotidError) as again:
            Predictor.from_bytes(*files)
        line = str(caught.value)
        assert str(again.value) == line
        assert line.isprintable()
        assert len(line) < 700
        assert "train" in line
        return line

    return refused


def test_bundle__has_these_arrays_and_loads(stored: ModuleType, named: dict[str, Any], tmp_path: Path) -> None:
    assert set(named) == set(EVERY)
    assert {name for name in EVERY if named[name].dtype.kind != "f"} == set(WHOLE)
    assert stored.check("weights", stored.packed(named), tmp_path)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "unlike_kind.scores"])  # of any length
def test_array__without_its_last_row_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    assert name in fault({**named, name: named[name][:-1]})


@pytest.mark.parametrize("name", [name for name in EVERY if name != "unlike_kind.scores"])  # of any length
def test_array__with_a_row_more_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    assert name in fault({**named, name: np.concatenate([named[name], named[name][-1:]])})


@pytest.mark.parametrize("name", EVERY)
def test_array__that_is_missing_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    assert f"array {name} is missing" in fault({key: each for key, each in named.items() if key != name})


@pytest.mark.parametrize("name", EVERY)
def test_array__of_another_type_or_shape_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    array = named[name]
    assert f"array {name}: must be " in fault({**named, name: np.zeros(array.shape, np.float16)})
    assert f"array {name}: must have " in fault({**named, name: array[np.newaxis]})
    if array.ndim > 1:
        assert f"array {name}: must have " in fault({**named, name: array.ravel()})
        assert f"array {name}: must have " in fault({**named, name: array[:, :-1]})


@pytest.mark.parametrize("name", EVERY)
def test_array__with_a_byte_less_in_the_header_or_the_file_is_one_line_that_names_it(
    name: str, stored: ModuleType, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    header, data = stored.split(stored.packed(named))
    start, end = header[name]["data_offsets"]
    short = {**header, name: {**header[name], "data_offsets": [start, end - 1]}}
    assert f"array {name}: must be at bytes {start} to {end}, got {start} to {end - 1}" in fault(
        stored.joined(short, data)
    )
    last = {key: each for key, each in named.items() if key != name} | {name: named[name]}
    assert f"array {name}: is truncated at byte {len(data) - 1} of {len(data)}" in fault(stored.packed(last)[:-1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize("name", [name for name in EVERY if name not in WHOLE])
def test_array__with_a_value_that_is_not_finite_is_one_line_that_names_it(
    name: str, value: float, named: dict[str, Any], fault: Callable[..., str], stored: ModuleType, tmp_path: Path
) -> None:
    array = named[name].copy()
    array.flat[array.size // 2] = value
    if name == "devices.first.class_bias_C" and value == -np.inf:  # of a class that no set showed
        assert stored.check("weights", stored.packed({**named, name: array}), tmp_path)
    else:
        assert f"array {name}: values must be finite" in fault({**named, name: array})


_OUTSIDE = {  # the first value of each array of whole numbers, and of those with a range of their own
    "memory.labels": (-1, 3),
    "memory.flows": (0, -5),
    "memory.strength": (0.0, -1.0),
    "memory.starts": (1, -1),
    "devices.sets.class": (-2, 3),
    "devices.sets.indptr": (1, -1),
    "devices.sets.indices": (-1, 10**6),
    "devices.most_at_once": (0, -1),
    "devices.first.most_T": (-1.0,),
    "devices.usually_left": (-0.5,),
    "devices.of_host.spread": (0.0, -1.0),
    "answers.probabilities": (-0.1, 1.1),
}


@pytest.mark.parametrize("name", _OUTSIDE)
def test_array__with_a_value_out_of_its_range_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    for value in _OUTSIDE[name]:
        array = named[name].copy()
        array.flat[0] = value
        assert f"array {name}: " in fault({**named, name: array})


@pytest.mark.parametrize(
    "name",
    ["memory.keys", "memory.starts", "answers.keys", "devices.sets.indptr", "devices.sets.indices"]
    + [f"devices.tokens.{kind}" for kind in ("sequences", "packets", "pairs")],
)
def test_array__in_another_order_is_one_line_that_names_it(
    name: str, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    assert f"array {name}: must " in fault({**named, name: named[name][::-1]})
    twice = named[name].copy()
    twice[1] = twice[0]
    if name != "devices.sets.indptr":  # a set may be empty
        assert f"array {name}: must " in fault({**named, name: twice})


def test_weights__unknown_arrays_are_one_line(named: dict[str, Any], fault: Callable[..., str]) -> None:
    assert "array further is not part of a model" in fault({**named, "further": np.zeros(2)})
    assert "array memory.more is not part of a model" in fault({**named, "memory.more": np.zeros(2)})
    without = {name: array for name, array in named.items() if not name.startswith("memory.")}
    assert "arrays memory.*: must be present, as model.sequence_counts is True" in fault(without)


def test_weights__kept_answers_that_are_no_probabilities_are_one_line(
    named: dict[str, Any], fault: Callable[..., str]
) -> None:
    half = named["answers.probabilities"] / 2
    assert "array answers.probabilities: must sum to 1 in each row" in fault({**named, "answers.probabilities": half})


def test_weights__a_model_without_kept_answers_loads(stored: ModuleType, named: dict[str, Any], tmp_path: Path) -> None:
    without = {name: array for name, array in named.items() if not name.startswith("answers.")}
    assert stored.check("weights", stored.packed(without), tmp_path)


def test_weights__held_out_scores_of_kinds_are_sorted_and_beside_a_device_model(
    named: dict[str, Any], fault: Callable[..., str]
) -> None:
    backwards = named["unlike_kind.scores"][::-1].copy()
    assert len(set(backwards)) > 1
    assert "array unlike_kind.scores: must be non-decreasing" in fault({**named, "unlike_kind.scores": backwards})
    without = {name: array for name, array in named.items() if not name.startswith("devices.")}
    assert "arrays unlike_kind.*: must be absent, as there are no arrays devices.*" in fault(without)


def test_weights__a_model_of_an_earlier_version_without_held_out_scores_loads(
    stored: ModuleType, named: dict[str, Any], tmp_path: Path
) -> None:
    without = {name: array for name, array in named.items() if not name.startswith("unlike_kind.")}
    assert stored.check("weights", stored.packed(without), tmp_path)


def test_weights__a_model_without_device_model_loads(stored: ModuleType, named: dict[str, Any], tmp_path: Path) -> None:
    without = {name: array for name, array in named.items() if not name.startswith(("devices.", "unlike_kind."))}
    assert stored.check("weights", stored.packed(without), tmp_path)


def test_weights__cut_at_any_byte_are_one_line(stored: ModuleType, fault: Callable[..., str]) -> None:
    whole = stored.bundle()[0]
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        assert WEIGHTS in fault(whole[:size])
    assert "1 bytes after its last array" in fault(whole + b"\0")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 50,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 14) + b'{"a": [1,2,3]}',
        b"\x80\x04\x95 a pickle",
        b"PK\3\4 a zip, as torch.save writes one",
    ],
    ids=range(7),
)
def test_weights__of_another_format_are_one_line(content: bytes, fault: Callable[..., str]) -> None:
    assert WEIGHTS in fault(content)


def test_weights__a_header_of_huge_arrays_is_refused_before_allocation(
    stored: ModuleType, named: dict[str, Any], fault: Callable[..., str]
) -> None:
    header, data = stored.split(stored.packed(named))
    huge = {**header["classifier.weight"], "shape": [2**40, 2**20]}
    assert "array classifier.weight: must have 3" in fault(stored.joined({**header, "classifier.weight": huge}, data))


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 10**7), ("hidden_size", 16384), ("embedding_size", 10**9), ("layers", 10**6)]
)
def test_description__a_size_unlike_the_weights_is_one_line_before_allocation(
    field: str, value: int, stored: ModuleType, fault: Callable[..., str]
) -> None:
    content = json.loads(stored.bundle()[1])
    content["model"][field] = value
    tracemalloc.start()
    try:
        line = fault(description=json.dumps(content).encode())
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert f"model.{field}: " in line or "array embeddings.packet_length.weight" in line or "array temporal" in line


_FIELDS = ["bundle_version", "flows_version", "code_version", "model", "encoding"]
_OF_ENCODING = ["schema_version", "max_packets", "vocabularies", "labels", "devices", "protocols", "length"]
_PATHS = [
    *[(name,) for name in _FIELDS],
    *[("encoding", name) for name in _OF_ENCODING],
    *[("model", name) for name in ("embedding_size", "hidden_size", "layers", "dropout", "fusion", "readout", "padding",
                                   "sequence_counts")],
]  # fmt: skip


@pytest.mark.parametrize("path", _PATHS, ids=".".join)
def test_description__a_missing_or_mistyped_field_is_one_line_that_names_it(
    path: tuple[str, ...], stored: ModuleType, fault: Callable[..., str]
) -> None:
    content = json.loads(stored.bundle()[1])
    *above, name = path
    inner = content[above[0]] if above else content
    present = inner.pop(name)
    assert name in fault(description=json.dumps(content).encode())
    for odd in (None, [[1]], {"x": {"y": 1}}, "x" * 10**5, -1, 10**40, 0.25, True):
        if type(odd) is not type(present) and not (name == "dropout" and odd == 0.25):
            inner[name] = odd
            assert name in fault(description=json.dumps(content).encode()), odd


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("labels", ["camera", "camera", "plug"], "labels: must be distinct"),
        ("labels", ["camera", "plug"], "array classifier.weight: must have 2"),
        ("max_packets", 4097, "max_packets: must be 1 to 4096"),
        ("max_packets", 2, "array devices.tokens.sequences: must have 16"),
        ("protocols", [256], "protocols[0]: must be 0 to 255"),
        (
            "vocabularies",
            [{"name": "direction", "values": [1, -1]}],
            "vocabularies[0].values: must be strictly increasing",
        ),
        ("vocabularies", [{"name": "direction", "values": [2**40]}], "vocabularies[0].values[0]: must be"),
        ("vocabularies", [{"name": "colour", "values": []}], "reads colour, which this iotid lacks"),
        ("vocabularies", [{"name": "direction", "values": []}] * 2, "vocabularies: must be distinct"),
        ("vocabularies", [{"name": "direction", "values": []}], "array embeddings.packet_length.weight is not part of"),
        ("devices", {"plug": {"vendor": 5}}, "devices.plug.vendor: must be text"),
    ],
)
def test_description__an_invalid_encoding_is_one_line(
    name: str, value: Any, rule: str, stored: ModuleType, fault: Callable[..., str]
) -> None:
    content = json.loads(stored.bundle()[1])
    content["encoding"][name] = value
    assert rule in fault(description=json.dumps(content).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"null", b"[" * 10**6, b'{"a":' * 200 + b"1" + b"}" * 200, b'{"bundle_version": NaN}'],
    ids=range(7),
)
def test_description__that_is_no_object_of_json_is_one_line(content: bytes, fault: Callable[..., str]) -> None:
    assert DESCRIPTION in fault(description=content)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("kind", ["pipe", "folder", "too large"])
def test_load__no_file_or_a_too_large_one_is_one_line_immediately(
    kind: str, name: str, stored: ModuleType, tmp_path: Path
) -> None:
    for file, content in zip((WEIGHTS, DESCRIPTION), stored.bundle(), strict=True):
        (tmp_path / file).write_bytes(content)
    path = tmp_path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(1 << 40)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        Predictor.load(tmp_path)
