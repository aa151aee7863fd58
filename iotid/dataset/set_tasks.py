"""Collects sets of flows (see `sets`) in the workers of the second pass.

Shape suffixes: N flows, R rows of sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.dataset.characteristics import Encoding
from iotid.dataset.hashes import hash_rows
from iotid.dataset.label_flows import Source
from iotid.dataset.packed_sequences import unpack_sequences
from iotid.dataset.sets import SCHEMA, FlowSets, concurrent_flows, sample_sets
from iotid.dataset.side_outputs import SETS, TEST_SETS
from iotid.dataset.split_protocols import DATE_IDENTITY
from iotid.labels.hosts import name_devices
from iotid.labels.owner import parse_addresses

_HELD_ROWS = 1 << 18  # rows that a task holds before it samples them


class SetBuffer:
    """Samples sets of flows, by device and capture, of each label and of unlisted hosts; those of the test split apart.

    A set has only flows that the device opened or answered.
    """

    def __init__(self, source: Source, site: str) -> None:
        self._source, self._site = source, source.devices.site(site)
        self._held: dict[str, list[pa.Table]] = {SETS: [], TEST_SETS: []}

    def add(
        self,
        flows: pa.RecordBatch,
        packed: pa.BinaryArray,
        is_test_N: NDArray[np.bool_],
        label_N: NDArray[np.int32],
        device_N: NDArray[np.int32],
    ) -> None:
        """``is_test_N``: of the test split; ``label_N``: -1 for none; ``device_N``: -1 for unlisted hosts, identified
        by MAC or address."""
        seed = self._source.settings.seed
        host = name_devices(flows, self._site).device
        kept_N = pc.is_valid(host).to_numpy(zero_copy_only=False) & self._is_its_own(device_N, host)
        of_host = pc.if_else(pa.array(device_N < 0), host, None)
        date, capture = [flows[name] for name in DATE_IDENTITY], _name_of(flows["capture_file"])
        first_us, last_us = (flows[name].cast(pa.int64()) for name in ("first_seen", "last_seen"))
        unit_N, recording_N = (
            hash_rows([*identity, pa.array(device_N), of_host], seed) for identity in ([*date, capture], date)
        )
        columns = [
            pa.array(label_N),
            pa.array(unit_N),
            pa.array(recording_N),
            packed,
            pa.array(np.ones_like(unit_N, np.int64)),
            pc.subtract(last_us, first_us),
            first_us,
            last_us,
        ]
        rows = pa.table(columns, schema=SCHEMA)
        for kind, is_in_N in ((SETS, ~is_test_N), (TEST_SETS, is_test_N)):
            held = self._held[kind]
            held.append(sample_sets(rows.filter(pa.array(kept_N & is_in_N)), self._source.settings.sets))
            if sum(map(len, held)) > _HELD_ROWS:
                self._held[kind] = [self._table(held)]

    def _is_its_own(self, device_N: NDArray[np.int32], host: pa.Array) -> NDArray[np.bool_]:
        """Whether each flow's host is the entry's device: if the entry lists MACs, the host must have one of them,
        because a path may match flows of several hosts, and a census row is one host."""
        encoded = host.dictionary_encode()
        code_N = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        pairs, pair_N = np.unique(np.stack([device_N, code_N]), axis=1, return_inverse=True)
        names, devices = encoded.dictionary.to_pylist(), self._source.devices.entries
        is_address = parse_addresses(names)[0] != 0
        is_own = [
            device < 0 or code < 0 or not devices[device].mac or names[code] in devices[device].mac or is_address[code]
            for device, code in pairs.T.tolist()
        ]
        return np.array(is_own, np.bool_)[pair_N.ravel()]

    def add_unlisted(self, flows: pa.RecordBatch) -> None:
        nobody_N = np.full(len(flows), -1, np.int32)
        self.add(flows, self._source.packed(flows), np.zeros(len(flows), np.bool_), nobody_N, nobody_N)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """SETS and TEST_SETS, each with its rows of SCHEMA."""
        return ((kind, self._table(held)) for kind, held in self._held.items())

    def _table(self, held: Sequence[pa.Table]) -> pa.Table:
        return sample_sets(pa.concat_tables(held or [SCHEMA.empty_table()]), self._source.settings.sets)


def _name_of(capture_file: pa.Array) -> pa.DictionaryArray:
    """Last folder and name of each capture, so that the dataset does not depend on the location of the folder."""
    encoded = capture_file.dictionary_encode()
    names = pc.replace_substring_regex(encoded.dictionary.cast(pa.string()), r"^.*/([^/]*/[^/]*)$", r"\1")
    return pa.DictionaryArray.from_arrays(encoded.indices, names)


def sets_of(rows: Sequence[pa.Table], encoding: Encoding, most: int) -> FlowSets:
    """The sets of all tasks, encoded; independent of the order of the tasks."""
    sampled = sample_sets(pa.concat_tables([SCHEMA.empty_table(), *rows]), most)
    sampled = sampled.sort_by([(name, "ascending") for name in SCHEMA.names])
    lists = unpack_sequences(sampled["sequences"].combine_chunks(), len(encoding.columns))
    ids = encoding.encode(pa.RecordBatch.from_arrays(lists, names=list(encoding.columns)))
    unit_R, label_R = sampled["unit"].to_numpy().view(np.int64), sampled["label"].to_numpy().astype(np.int64)
    recording_R = sampled["recording"].to_numpy().view(np.int64)
    num_flows_R, open_us_R, first_us_R, last_us_R = (sampled[name].to_numpy() for name in SCHEMA.names[-4:])
    concurrent_R = concurrent_flows(num_flows_R, open_us_R, last_us_R - first_us_R)
    return FlowSets.of(ids, unit_R, label_R, num_flows_R, recording_R, concurrent_R)
