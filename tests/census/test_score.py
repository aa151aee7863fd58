"""Parts of scoring that need no Spark: whole devices of ordered batches, and the device model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.answers import answer_devices, whole_devices
from iotid.census.groups import NO_GROUPS
from iotid.census.identify import ANSWERS, answers_from_arrow
from iotid.census.scored import Scored
from iotid.census.tally_in_process import distinct_flows
from iotid.dataset.characteristics import CHARACTERISTICS, Encoding, Vocabulary
from iotid.model.device import Answer

from .plain_site import LEFT_OUT_ROWS, devices_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_scored__counts_flows_of_devices_of_other_protocols_and_of_none() -> None:
    assert Scored(devices_of(1, {}), NO_GROUPS, 5, LEFT_OUT_ROWS).flows == 10
    assert Scored(devices_of(1, {}), NO_GROUPS, 5, LEFT_OUT_ROWS.slice(0, 0)).flows == 5


@pytest.mark.parametrize("max_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("sizes", [(3, 1, 2, 4), (1, 1, 1), (7,), (1, 9)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_whole_devices__no_device_is_in_two_tables_and_no_row_is_lost(
    sizes: Sequence[int], batch: int, max_rows: int
) -> None:
    device = [f"d{number}" for number, size in enumerate(sizes) for _ in range(size)]
    rows = pa.table({"device_id": device, "flows": list(range(len(device)))})
    tables = list(whole_devices(iter(rows.to_batches(max_chunksize=batch)), max_rows))
    assert pa.concat_tables(tables).to_pylist() == rows.to_pylist()
    of_table = [set(table["device_id"].to_pylist()) for table in tables]
    assert sum(map(len, of_table)) == len(sizes)
    assert all(len(table) <= max_rows + max(sizes) + batch for table in tables)
    assert list(whole_devices(iter([]), 3)) == []


def test_distinct_flows__differ_by_lists_and_by_the_servers_port(flow_table: Callable[..., pa.Table]) -> None:
    rows = [([60], 443), ([60], 80), ([60], 443), ([60, 0], 443), ([0, 60], 443), ([60], 443)]
    flows = flow_table([{"packet_length": lengths, "server_port": port} for lengths, port in rows])
    device = pa.array(["b", "b", "b", "b", None, "a"])
    found = distinct_flows(flows, device, _encoding("packet_length", "server_port"))
    kept = [tuple(row[name] for name in ("device_id", "packet_length", "server_port", "flows"))
            for row in found.to_pylist()]  # fmt: skip
    expected = [("a", [60], 443, 1), ("b", [60], 443, 2), ("b", [60], 80, 1), ("b", [60, 0], 443, 1)]
    assert sorted(kept) == sorted(expected)


def test_distinct_flows__with_quantised_values_equal_to_the_model_are_one(flow_table: Callable[..., pa.Table]) -> None:
    """TTLs of one initial value are one, and what follows the packets that the model reads is not compared."""
    encoding = _encoding("packet_length", "ttl_class")
    ttls = [[64, 64], [61, 50], [128, 64], [64, 64, 255], [64, 64, 30]]
    flows = flow_table([{"packet_length": [60, 60], "ttl": ttl} for ttl in ttls])
    found = distinct_flows(flows, pa.array(["a"] * 5), encoding)
    kept = sorted(zip(found["ttl"].to_pylist(), found["flows"].to_pylist(), strict=True))
    assert kept == [([64, 64], 4), ([128, 64], 1)]
    of_flows = {str(ids) for ids in encoding.encode(flows)["ttl_class"].tolist()}
    assert {str(ids) for ids in encoding.encode(found)["ttl_class"].tolist()} == of_flows


@pytest.mark.spark
def test_quantised__spark_has_the_lists_of_one_machine(
    spark: SparkSession, flow_table: Callable[..., pa.Table]
) -> None:
    from iotid.census.score_on_spark import _quantised

    chance = np.random.default_rng(4)
    ttls = [chance.integers(1, 256, chance.integers(1, 4)).tolist() for _ in range(50)]
    flows = flow_table([{"packet_length": [60] * len(ttl), "ttl": ttl} for ttl in ttls])
    encoding = _encoding("packet_length", "ttl_class")
    there = _quantised(spark.createDataFrame(flows.select(["packet_length", "ttl"])), encoding).toArrow()
    here = distinct_flows(flows, pa.array([f"{number:02}" for number in range(50)]), encoding)  # in this order
    for name in ("packet_length", "ttl"):
        assert there[name].to_pylist() == here[name].to_pylist()


def _encoding(*names: str) -> Encoding:
    vocabularies = {name: Vocabulary(CHARACTERISTICS[name].always or (60,)) for name in names}
    return Encoding(2, vocabularies, ("a",), {}, (6,), "ip")


def test_answers__each_device_is_scored_once_with_all_its_distinct_flows() -> None:
    chance = np.random.default_rng(3)
    lengths = chance.integers(0, 3, (40, 2)).astype(np.int32)
    devices, repeats = [f"d{number // 10}" for number in range(40)], chance.integers(1, 5, 40)
    first = chance.integers(0, 3, 40) * 60_000_000  # of each row flows of two minutes, all within three
    calls: list[tuple[np.ndarray, Any, Any]] = []
    when: list[tuple[int, ...]] = []

    def answer(sequences: dict[str, np.ndarray], flows: Any, at_once: Any, seen: Any, *, unlike_kind: bool) -> Answer:
        """Says how many flows each device has of each of two kinds of flows."""
        calls.append((sequences["length"], flows, at_once))
        when.extend(zip(seen.set, seen.flow, seen.first_us, seen.last_us, strict=True))
        begins = np.stack([sequences["length"][:, 0] == first for first in (0, 1)], axis=1)
        share_BK, none_B = flows @ begins.astype(float), np.zeros(flows.shape[0])
        counts = (flows > 0).astype(np.int64) @ np.ones((flows.shape[1], 3), np.int64)
        return Answer(
            share_BK, share_BK, none_B, share_BK, none_B, none_B, counts, counts[:, 0], *[counts[:, :2]] * 4, share_BK
        )

    encoding = SimpleNamespace(encode=lambda batch: {"length": np.array(batch["length"].to_pylist(), np.int32)})
    predictor: Any = SimpleNamespace(encoding=encoding, learned=SimpleNamespace(devices=SimpleNamespace(answer=answer)))
    times = {"open_us": repeats * 120_000_000, "first_seen": first, "last_seen": first + 180_000_000}
    rows = pa.table({"device_id": devices, "flows": repeats, "length": lengths.tolist(), **times})
    table = answer_devices(predictor, rows, ["length"])
    assert table.schema == ANSWERS
    assert table["device_id"].to_pylist() == ["d0", "d1", "d2", "d3"]
    assert table["num_flows"].to_pylist() == [int(repeats[at : at + 10].sum()) for at in range(0, 40, 10)]
    ((sequences, flows, at_once),) = calls
    assert sorted(map(tuple, sequences.tolist())) == sorted({tuple(row) for row in lengths.tolist()})
    assert flows.shape == at_once.shape == (4, len(sequences))
    for (row_of_device, of), most in at_once.todok().items():
        equal = [
            -(-2 * int(repeats[row]) // 3)  # so often three minutes are in the time of being open, rounded up
            for row in range(10 * row_of_device, 10 * row_of_device + 10)
            if (lengths[row] == sequences[of]).all()
        ]
        assert most == max(equal)
    assert at_once.nnz == flows.nnz
    rows_seen = [(n // 10, tuple(lengths[n]), first[n], first[n] + 180_000_000) for n in range(40)]
    assert [(of, tuple(sequences[flow]), *times) for of, flow, *times in when] == rows_seen
    stored = answers_from_arrow(table)
    for row_of_device in range(4):
        own = slice(10 * row_of_device, 10 * row_of_device + 10)
        expected = [int(repeats[own][lengths[own, 0] == first].sum()) for first in (0, 1)]
        assert stored.host[row_of_device].tolist() == expected
        assert stored.distinct[row_of_device] == len({tuple(row) for row in lengths[own].tolist()})
