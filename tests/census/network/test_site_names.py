"""A site's census takes the network's names of unknown groups, and its totals come from all probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid.census import take
from iotid.census.groups import PAYLOADS_AND_PORTS, group_devices
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.census.stored import TOTALS_FILE, stored_groups
from iotid.partitions import Partition

from ..plain_site import A, B, Site
from .network_store import NetworkStore

KEY = "one key of this test"


def _with_groups(site: Site, monkeypatch: pytest.MonkeyPatch, payloads: dict[str, int]) -> None:
    """Lets the site's scoring group its unknown devices, each of which sends payloads of one length."""

    def score(*given: Any) -> Any:
        scored = site._score(*given)
        unknown = scored.devices["device_id"].filter(pc.equal(scored.devices["status"], "unknown")).combine_chunks()
        rows = [
            {"device_id": device, "what": "payload", "protocol": 6, "value": payloads[device], "flows": 4}
            for device in unknown.to_pylist()
        ]
        group, groups = group_devices(
            unknown, pa.Table.from_pylist(rows, schema=PAYLOADS_AND_PORTS), given[-1].groups, 0.6
        )
        index = scored.devices.schema.get_field_index("group_name")
        column = group.take(pc.index_in(scored.devices["device_id"], value_set=unknown))
        devices = scored.devices.set_column(index, scored.devices.schema.field(index), column)
        return replace(scored, devices=devices, groups=groups)

    monkeypatch.setattr(take, "score_partition", score)


def _groups(census: Partition) -> dict[str, str]:
    rows = pq.read_table(census.uri, partitioning=None).to_pylist()
    return {row["device_id"]: row["group_name"] for row in rows}


def test_site__rows_have_the_networks_names_from_the_next_date_on(
    plain_site: Site, network: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_groups(plain_site, monkeypatch, {A: 100, B: 200})
    plain_site.flows(1, a=None, b=None)
    own = _groups(plain_site.census(1))
    network.census("other", 1, [{"status": "unknown", "group_name": "gnet"}] * 5, {"gnet": {100: 1.0}})
    joined = network.network(1)
    plain_site.flows(2, b=None)
    second = plain_site.census(2)
    assert _groups(second) == {A: "gnet", B: own[B]}, "also of a device that is gone"
    assert second.metadata["network_groups"] == dict(joined.key)
    groups = stored_groups(plain_site.store, second, None)
    assert set(groups["group_name"].to_pylist()) == {"gnet", own[B]}
    page = Path(second.uri, "_census.html").read_text()
    link = "../../../network/capture_date=2026-01-02/name=all/_network.html"
    assert f'<a href="{link}">' in page
    again = network.network(2)
    assert (Path(second.uri) / link).resolve() == (Path(again.uri) / "_network.html").resolve()


def test_site__a_new_site_names_what_other_sites_know(
    plain_site: Site, network: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_groups(plain_site, monkeypatch, {A: 100, B: 200})
    network.census("other", 1, [{}], {"gnet": {100: 1.0}})
    network.network(1)
    plain_site.flows(2, a=None, b=None)
    found = _groups(plain_site.census(2))
    assert found[A] == "gnet"
    assert found[B] != "gnet"


def test_site__without_a_network_its_names_are_its_own(plain_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_groups(plain_site, monkeypatch, {A: 100})
    plain_site.flows(1, a=None)
    census = plain_site.census(1)
    assert census.metadata["network_groups"] == {}
    plain_site.flows(2, a=None)
    assert _groups(plain_site.census(2)) == _groups(census)


def test_site__under_pseudonyms_takes_names_of_the_same_key_only(
    plain_site: Site, network: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    _with_groups(plain_site, monkeypatch, {A: 100})
    network.settings = network.settings.model_copy(
        update={"census": network.settings.census.model_copy(update={"pseudonyms": "opaque"})}
    )
    network.census("other", 1, [{}], {"gnet": {100: 1.0}}, pseudonyms=Pseudonyms(KEY.encode()))
    network.network(1)
    plain_site.flows(2, a=None)
    assert set(_groups(plain_site.census(2, pseudonyms="opaque")).values()) == {"gnet"}
    assert set(_groups(plain_site.census(2)).values()) != {"gnet"}, "a clear census does not read sealed profiles"


@pytest.mark.spark
def test_site__on_spark_takes_names_and_sums_all_probabilities(site: Any, network_on_spark: NetworkStore) -> None:
    site.devices(1, a="odd", b="camera", c="plug", d="camera+plug")
    first = site.census(1)
    (own,) = stored_groups(site.store, first, None).to_pylist()
    profile = dict(zip(own["payload_length"], own["share"], strict=True))
    network_on_spark.census("other", 1, [{"status": "unknown", "group_name": "gnet"}] * 3, {"gnet": profile})
    network_on_spark.network(1)
    site.devices(2, a="odd", b="camera")
    second = site.census(2)
    rows = pq.read_table(second.uri, partitioning=None).to_pylist()
    assert {row["group_name"] for row in rows} - {None} == {"gnet"}
    totals = {
        (row["level"], row["item"]): row
        for row in pq.read_table(f"{first.uri}/{TOTALS_FILE}", partitioning=None).to_pylist()
    }
    present = pq.read_table(first.uri, partitioning=None).to_pylist()
    for name in ("camera", "plug"):
        likely = [kind["confidence"] for row in present for kind in row["kinds"] if kind["type"] == name]
        kind, type_ = totals["kind", f"{name} works {name}"], totals["type", name]
        assert kind["expected"] >= sum(likely) - 1e-6
        assert kind["expected"] == pytest.approx(type_["expected"])
        assert kind["found"] == len(likely)
        assert 0 <= kind["variance"] <= kind["expected"]
