"""Characteristics of a flow's first packets as vocabulary ids, the input of models.

To add a characteristic: 1. an entry of ``CHARACTERISTICS``: its column of FLOWS, how its values are quantised if there
are too many, and its vocabulary unless that is learned from training; 2. its name in ``dataset.characteristics``; 3. a
case in tests/dataset/test_characteristics.py.

Shape suffixes: N flows, M packets kept of each flow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.dataset.arrays import first_values, list_positions
from iotid.errors import SchemaError, SettingError, short_repr
from iotid.schemas import FLOWS, HEADER_COLUMNS, typed
from iotid.schemas.typed import Within

if TYPE_CHECKING:
    import pyarrow as pa

PADDING = 0
OUT_OF_VOCABULARY = 1
_FIRST_VALUE = 2
_PER_FLOW = frozenset(column.name for column in FLOWS.columns if column.type == "int32")
_SCHEMA_VERSION = 1

# Lower ends of bins, two per octave; waits of 2^30.5 µs (25 minutes) or more share the last, to fit in 32 bits.
_WAITS_US = np.unique(np.concatenate([[0], np.floor(2 ** np.arange(0, 31, 0.5))])).astype(np.int64)
_INITIAL_TTLS = np.array([32, 64, 128, 255])  # of operating systems: RFC 1700 recommends 64


def _as_measured(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return values


def _initial_ttl(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace each TTL by the lowest usual initial value that it can come from."""
    return _INITIAL_TTLS[np.minimum(np.searchsorted(_INITIAL_TTLS, values), len(_INITIAL_TTLS) - 1)]


def _logarithmic(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace each wait by the lower end of its bin, in µs."""
    return _WAITS_US[np.maximum(np.searchsorted(_WAITS_US, values, side="right") - 1, 0)]


@dataclass(frozen=True)
class Characteristic:
    """``column``: of FLOWS, a list of a value for each packet, or one value for all of them; ``quantise``: reduces the
    number of distinct values, idempotent; ``always``: a fixed vocabulary, None to learn it from training; ``views``:
    types of tokens of this characteristic alone that `iotid.model.device.similarity` compares.
    """

    column: str
    quantise: Callable[[NDArray[np.int64]], NDArray[np.int64]] = _as_measured
    always: tuple[int, ...] | None = None
    views: tuple[Literal["packets", "pairs"], ...] = ()


_ALONE: tuple[Literal["packets"]] = ("packets",)  # pairs of what hardly changes within a flow would add nothing

# add yours here
CHARACTERISTICS: Mapping[str, Characteristic] = {
    "packet_length": Characteristic("packet_length", views=("packets", "pairs")),
    "tcp_window": Characteristic("tcp_window"),
    "direction": Characteristic("direction", always=(-1, 1)),
    "inter_arrival": Characteristic("inter_arrival_us", _logarithmic, tuple(_WAITS_US.tolist())),
    "tcp_flags": Characteristic("tcp_flags", always=tuple(range(256))),
    "payload_length": Characteristic("payload_length"),
    "ttl_class": Characteristic("ttl", _initial_ttl, tuple(_INITIAL_TTLS.tolist()), _ALONE),
    "dscp": Characteristic("dscp", always=tuple(range(64))),
    "dont_fragment": Characteristic("dont_fragment", always=(0, 1), views=_ALONE),
    "ip_id_step": Characteristic("ip_id_step", always=tuple(range(7))),
    "tcp_options": Characteristic("tcp_options", views=_ALONE),
    "tcp_mss": Characteristic("tcp_mss", views=_ALONE),
    "tcp_window_scale": Characteristic("tcp_window_scale", views=_ALONE),
    "timestamp_rate": Characteristic("timestamp_rate", always=tuple(range(7))),
    "server_port": Characteristic("server_port", views=_ALONE),
}


def select_characteristics(names: Sequence[str]) -> dict[str, Characteristic]:
    """The entries of CHARACTERISTICS with these names, in this order.

    Raises:
        SettingError: a name is unknown or repeated.
    """
    for name in names:
        if name not in CHARACTERISTICS:
            known = ", ".join(CHARACTERISTICS)
            raise SettingError(f"dataset.characteristics: {name!r} is not known; choose from {known}")
        if list(names).count(name) > 1:
            raise SettingError(f"dataset.characteristics: {name!r} is given twice; name each once")
    return {name: CHARACTERISTICS[name] for name in names}


def check_header_fields(names: Sequence[str], flow: config.Flow) -> None:
    """Check that flows assembled with the settings ``flow`` have the columns of these characteristics.

    Raises:
        SettingError: a characteristic reads header fields, which such flows have not; or a name is unknown or repeated.
    """
    if (lacking := _read_from_headers(names)) and not flow.header_fields:
        raise SettingError(
            f"dataset.characteristics: {', '.join(lacking)} must have flow.header_fields=true, got false; assemble the "
            "flows with it, or leave these characteristics out"
        )


def _read_from_headers(names: Sequence[str]) -> list[str]:
    return [name for name, each in select_characteristics(names).items() if each.column in HEADER_COLUMNS]


def _values(
    flows: pa.Table | pa.RecordBatch, characteristic: Characteristic, max_packets: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The result of `first_values` of the characteristic's column.

    Raises:
        SchemaError: the flows were assembled without the header fields that it reads.
    """
    values, lengths_N = first_values(flows.column(characteristic.column), max_packets)
    if characteristic.column in HEADER_COLUMNS and not lengths_N.all():
        raise SchemaError(
            f"flows: {characteristic.column} must have a value for each packet, got an empty list; assemble the flows "
            "with flow.header_fields=true"
        )
    return values, lengths_N


def quantise_column(flows: pa.Table | pa.RecordBatch, characteristic: Characteristic, max_packets: int) -> pa.ListArray:
    """(N,) lists int32 of the quantised values of each flow's first ``max_packets`` packets, or of its one value."""
    return _quantised(characteristic, *_values(flows, characteristic, max_packets))


def quantise_lists(lists: pa.Array | pa.ChunkedArray, characteristic: Characteristic, max_packets: int) -> pa.ListArray:
    """As `quantise_column`, of the column itself; empty lists stay empty."""
    return _quantised(characteristic, *first_values(lists, max_packets))


def _quantised(characteristic: Characteristic, values: NDArray[np.int64], lengths_N: NDArray[np.int64]) -> pa.ListArray:
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, characteristic.quantise(values).astype(np.int32))


@dataclass(frozen=True)
class Vocabulary:
    """The quantised values with ids of their own, sorted. Ids: 0 padding, 1 out-of-vocabulary, from 2 on the values."""

    values: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of ids, including padding and out-of-vocabulary."""
        return len(self.values) + _FIRST_VALUE

    def ids(self, values: NDArray[np.int64]) -> NDArray[np.int32]:
        """The id of each value; any shape."""
        known = self._known
        if not len(known):
            return np.full(values.shape, OUT_OF_VOCABULARY, dtype=np.int32)
        index = np.minimum(np.searchsorted(known, values), len(known) - 1)
        return np.where(known[index] == values, index + _FIRST_VALUE, OUT_OF_VOCABULARY).astype(np.int32)

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        return np.array(self.values, dtype=np.int64)


@dataclass(frozen=True)
class Encoding:
    """Encodes flows as ids, and names the ids of labels. Stored with the dataset and every model.

    ``vocabularies`` are in the order of ``dataset.characteristics``. ``devices``: label -> vendor, type and model.
    ``protocols`` (IANA numbers) and ``length`` (``flow.length``): those of the flows that it applies to.
    """

    max_packets: int
    vocabularies: Mapping[str, Vocabulary]
    labels: tuple[str, ...]
    devices: Mapping[str, Mapping[str, str]]
    protocols: tuple[int, ...]
    length: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of FLOWS that ``encode`` reads, in the order of the characteristics."""
        return tuple(each.column for each in select_characteristics(list(self.vocabularies)).values())

    @property
    def distinct_columns(self) -> tuple[str, ...]:
        """``columns``, each once: two characteristics may be read from one column."""
        return tuple(dict.fromkeys(self.columns))

    @property
    def quantised_columns(self) -> dict[str, Characteristic]:
        """Columns whose values ``encode`` quantises, and the only characteristic that reads each: quantised before
        (`quantise_lists`), they give the same ids, and fewer flows are distinct."""
        chosen = select_characteristics(list(self.vocabularies)).values()
        return {
            each.column: each
            for each in chosen
            if each.quantise is not _as_measured and self.columns.count(each.column) == 1
        }

    def misfit(self, flow: Mapping[str, Any]) -> str | None:
        """Why flows assembled with these settings (section ``flow``) cannot be encoded; None if they can."""
        if flow["length"] != self.length:
            return f"has flow.length={flow['length']}, the model learned {self.length}"
        if flow["max_packets"] < self.max_packets:
            return f"has flow.max_packets={flow['max_packets']}, the model reads {self.max_packets}"
        if (lacking := _read_from_headers(list(self.vocabularies))) and not flow.get("header_fields", False):
            return f"has flow.header_fields=false, the model reads {', '.join(lacking)}"
        return None

    def encode(self, flows: pa.Table | pa.RecordBatch) -> dict[str, NDArray[np.int32]]:
        """Characteristic -> int32 (N, M) ids of the first M packets, padded with 0 at the end.

        A characteristic with one value for a flow has it at each packet that another characteristic has.

        Raises:
            SchemaError: the flows lack the column of a characteristic, or it is empty.
        """
        chosen = select_characteristics(list(self.vocabularies))
        lacking = sorted({each.column for each in chosen.values()} - set(flows.schema.names))
        if lacking:
            raise SchemaError(f"flows: lack {', '.join(lacking)}, which the model reads; give a table of schemas.FLOWS")
        encoded = {}
        read = {name: _values(flows, each, self.max_packets) for name, each in chosen.items()}
        packets_N = np.maximum.reduce([lengths_N for _, lengths_N in read.values()])
        for name, (values, lengths_N) in read.items():
            if chosen[name].column in _PER_FLOW:
                values, lengths_N = np.repeat(values, packets_N), packets_N  # noqa: PLW2901 - they are its values
            ids_NM = np.full((flows.num_rows, self.max_packets), PADDING, dtype=np.int32)
            row = np.repeat(np.arange(flows.num_rows), lengths_N)
            ids_NM[row, list_positions(lengths_N)] = self.vocabularies[name].ids(chosen[name].quantise(values))
            encoded[name] = ids_NM
        return encoded

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON stores without a change."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "max_packets": self.max_packets,
            # a list, because their order matters
            "vocabularies": [{"name": name, "values": list(known.values)} for name, known in self.vocabularies.items()],
            "labels": list(self.labels),
            "devices": {label: dict(described) for label, described in self.devices.items()},
            "protocols": list(self.protocols),
            "length": self.length,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "encoding") -> Encoding:
        """The inverse of ``to_json``; ``where``: named in errors.

        Raises:
            SchemaError: it was written by another version of iotid, or is damaged.
        """
        version = content.get("schema_version")
        if type(version) is not int or version != _SCHEMA_VERSION:
            raise SchemaError(
                f"{where}: has schema_version {short_repr(version)}, this iotid reads {_SCHEMA_VERSION}; write the "
                "dataset again, and train on it"
            )
        try:
            typed.check(_Stored, content)
            _check_distinct("labels", content["labels"])
            _check_distinct("vocabularies", [stored["name"] for stored in content["vocabularies"]])
            for number, stored in enumerate(content["vocabularies"]):
                values = np.array(stored["values"], np.int64)
                if not (values[1:] > values[:-1]).all():
                    raise ValueError(f"vocabularies[{number}].values: must be strictly increasing")
        except ValueError as fault:
            raise SchemaError(f"{where}: {fault}; write the dataset again, and train on it") from None
        return cls(
            max_packets=content["max_packets"],
            vocabularies={stored["name"]: Vocabulary(tuple(stored["values"])) for stored in content["vocabularies"]},
            labels=tuple(content["labels"]),
            devices={label: dict(described) for label, described in content["devices"].items()},
            protocols=tuple(content["protocols"]),
            length=content["length"],
        )


class _StoredVocabulary(TypedDict):
    name: str
    values: list[Annotated[int, Within(-(2**31), 2**31 - 1)]]


class _Stored(TypedDict):
    """The result of ``Encoding.to_json``."""

    max_packets: Annotated[int, Within(1, 4096)]
    vocabularies: Annotated[list[_StoredVocabulary], Within(1, 64)]
    labels: Annotated[list[str], Within(1)]
    devices: dict[str, dict[str, str | None]]
    protocols: list[Annotated[int, Within(0, 255)]]
    length: Literal["ip", "frame"]


def _check_distinct(name: str, texts: Sequence[str]) -> None:
    twice = next((text for text, times in Counter(texts).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"{name}: must be distinct, got {short_repr(twice)} twice")


def learn_vocabularies(seen: Mapping[str, Mapping[int, int]], settings: config.Dataset) -> dict[str, Vocabulary]:
    """The vocabulary of each characteristic: fixed, or the values that occur ``min_count`` times in training."""
    vocabularies = {}
    for name, characteristic in select_characteristics(settings.characteristics).items():
        known = characteristic.always
        if known is None:
            known = tuple(sorted(value for value, times in seen[name].items() if times >= settings.min_count))
        if not known:
            raise SettingError(
                f"dataset.min_count: no value of {name} occurs {settings.min_count} times in training; lower it"
            )
        vocabularies[name] = Vocabulary(known)
    return vocabularies


def out_of_vocabulary_rate(sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
    """(N,) share of each flow's values, over all characteristics, that are out of vocabulary; 0 to 1."""
    ids = np.concatenate(list(sequences.values()), axis=1)
    return (ids == OUT_OF_VOCABULARY).sum(axis=1) / np.maximum((ids != PADDING).sum(axis=1), 1)
