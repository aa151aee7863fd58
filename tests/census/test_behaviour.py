"""What devices do in their flows, as values: against a slow reference, and Spark's against the local ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iotid.census import behaviour
from iotid.census.behaviour import PAYLOADS_AND_PORTS, READ, VALUE_BITS, count_values, payloads_and_ports_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Make = Callable[[Any], pa.Table]
A, B = "00:11:22:33:44:0a", "00:11:22:33:44:0b"
START = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)


def flows_of(flow_table: Make, rows: list[dict[str, Any]]) -> pa.Table:
    """FLOWS with ``device_id`` and ``address``; a payload is positive if the client sends it."""
    given = [
        {
            "packet_length": [40 + abs(length) for length in row["payloads"]],
            "payload_length": [abs(length) for length in row["payloads"]],
            "direction": [1 if length >= 0 else -1 for length in row["payloads"]],
            "server_port": row.get("port", 443),
            "protocol": row.get("protocol", 6),
            "client_ip": "10.0.0.2",
            "first_seen": START + timedelta(minutes=row.get("minute", 0)),
        }
        for row in rows
    ]
    address = ["10.0.0.2" if row.get("is_client", True) else "192.0.2.1" for row in rows]
    table = flow_table(given).append_column("device_id", pa.array([row.get("device", A) for row in rows]))
    return table.append_column("address", pa.array(address))


def random_flows(flow_table: Make, number: int) -> pa.Table:
    random = np.random.default_rng(7)
    rows = [
        {
            "device": str(random.choice([A, B])),
            "payloads": random.integers(-4, 5, random.integers(0, 6)).tolist(),
            "port": int(random.choice([53, 443, 40_000, 50_000])),
            "protocol": int(random.choice([6, 17])),
            "is_client": bool(random.integers(0, 2)),
            "minute": int(random.integers(0, 200)),
        }
        for _ in range(number)
    ]
    return flows_of(flow_table, rows)


def reference_counts(flows: pa.Table) -> Counter[tuple[Any, ...]]:
    """Flow by flow; sequences are not encoded."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for flow in flows.to_pylist():
        is_client = flow["client_ip"] == flow["address"]
        signs = [direction if is_client else -direction for direction in flow["direction"]]
        sent = [sign * length for sign, length in zip(signs, flow["payload_length"], strict=True) if length]
        cut = [max(-2047, min(2047, length)) + 2048 for length in sent]
        port = flow["server_port"] if flow["server_port"] < 32768 else 0
        values: set[tuple[Any, ...]] = {("payload", flow["protocol"], length) for length in sent if length > 0}
        values |= {("pair", flow["protocol"], one << 12 | other) for one, other in pairwise(cut)}
        values |= {("sequence", flow["protocol"], port, *cut), ("role", flow["protocol"], port << 1 | is_client)}
        values |= {("port", flow["protocol"], flow["server_port"])}
        values |= {("hour", 0, int(flow["first_seen"].timestamp()) // 3600)}
        counts.update((flow["device_id"], *value) for value in values)
    return counts


def test_count_values__equals_the_reference_flow_by_flow(flow_table: Make) -> None:
    flows = random_flows(flow_table, 600)
    counted, expected = count_values(flows.select(READ)), reference_counts(flows)
    assert counted.schema.equals(PAYLOADS_AND_PORTS)
    found = {tuple(row.values())[:-1]: row["flows"] for row in counted.to_pylist() if row["what"] != "sequence"}
    assert found == {key: flows for key, flows in expected.items() if key[1] != "sequence"}
    sequences = counted.filter(pc.equal(counted["what"], "sequence"))
    expected_sequences = {key: flows for key, flows in expected.items() if key[1] == "sequence"}
    assert sorted(sequences["flows"].to_pylist()) == sorted(expected_sequences.values()), "no two have one hash"
    assert 0 <= pc.min(counted["value"]).as_py() <= pc.max(counted["value"]).as_py() < 1 << VALUE_BITS


def test_count_values__long_payloads_and_no_flows_are_counted(flow_table: Make) -> None:
    counted = count_values(flows_of(flow_table, [{"payloads": [60_000, -60_000]}]))
    values = {row["what"]: row["value"] for row in counted.to_pylist()}
    assert values["payload"] == 60_000
    assert values["pair"] == 4095 << 12 | 1
    assert len(count_values(flows_of(flow_table, [{"payloads": []}]).slice(0, 0))) == 0


def test_count_values__batches_of_flows_add_up_to_all_flows(flow_table: Make) -> None:
    flows = random_flows(flow_table, 200)
    parts = pa.concat_tables([count_values(flows.slice(at, 70)) for at in range(0, 200, 70)])
    keys = ["device_id", "what", "protocol", "value"]
    summed = parts.group_by(keys).aggregate([("flows", "sum")]).rename_columns([*keys, "flows"])
    assert summed.sort_by([(key, "ascending") for key in keys]).equals(
        count_values(flows).sort_by([(key, "ascending") for key in keys])
    )


def test_payloads_and_ports_of__keeps_the_commonest_values_of_each_type(
    flow_table: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour, "MAX_VALUES", 2)
    rows = [{"payloads": [length], "device": device} for device in (A, B) for length in (1, 2, 2, 3, 3, 3)]
    kept = payloads_and_ports_of(flows_of(flow_table, rows))
    payloads = kept.filter(pc.equal(kept["what"], "payload"))
    shown = [(row["device_id"], row["value"], row["flows"]) for row in payloads.to_pylist()]
    assert shown == [(A, 3, 3), (A, 2, 2), (B, 3, 3), (B, 2, 2)]


@pytest.mark.spark
def test_payloads_and_ports__spark_counts_what_one_machine_counts(spark: SparkSession, flow_table: Make) -> None:
    from iotid.census.tally import payloads_and_ports

    flows = random_flows(flow_table, 400)
    hashes = pc.if_else(pc.equal(flows["device_id"], A), 1, 2).cast(pa.int64())
    named = spark.createDataFrame(flows.append_column("bucket_hash", hashes)).repartition(3)
    order = [(name, "ascending") for name in PAYLOADS_AND_PORTS.names]
    for devices in ([A, B], [B]):
        counted = payloads_and_ports(named, pa.array(devices)).toArrow().cast(PAYLOADS_AND_PORTS).sort_by(order)
        of_devices = flows.filter(pc.is_in(flows["device_id"], pa.array(devices)))
        assert counted.equals(payloads_and_ports_of(of_devices.select(READ)).sort_by(order))
