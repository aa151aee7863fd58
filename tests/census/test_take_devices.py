"""What a census finds at each address, on Spark, with a real small model; flows left out and marks."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from iotid.census import tally
from iotid.census.marks import SENTENCES
from iotid.errors import DataError
from iotid.model import Predictor
from iotid.model.device import decide, share_of_households
from iotid.partitions import Partition, PartitionKey

if TYPE_CHECKING:
    pass


from .spark_site import GATE, IPS, A, B, C, D, Site, stored

pytestmark = pytest.mark.spark


def left_out(census: Partition) -> list[tuple[Any, ...]]:
    rows = pq.read_table(f"{census.uri}/_left_out.pq", partitioning=None)
    return list(zip(*(rows[name].to_pylist() for name in rows.column_names if name != "packets"), strict=True))


def test_take_census__flows_left_out_are_listed_by_mac_and_reason(site: Site) -> None:
    make, unanswered = site.make, {"server_packets": 0}
    camera = {"server_ip": IPS[A], "server_mac": A}
    flows = [
        *[make("camera", IPS[A], A)] * 3,
        # outside senders to the camera, to a MAC that sends nothing, and to an address without MAC
        *[make("plug", f"52.9.9.{n}", GATE, **camera, **unanswered) for n in range(4)],
        *[make("plug", "52.9.9.9", GATE, server_ip=f"203.0.113.{n}", server_mac=D, **unanswered) for n in (7, 8)],
        make("plug", "52.9.9.9", GATE, server_ip="10.0.0.7", server_mac=None, **unanswered),
        # the router forwards multicast from three outside addresses
        *[
            make("plug", f"52.8.8.{n}", GATE, server_ip="224.0.0.1", server_mac=None, **unanswered)
            for n in (1, 2, 3, 3)
        ],
        # without MACs
        *[make("plug", "52.7.7.7", None, server_ip="52.7.7.8", server_mac=None)] * 2,
        make("plug", "0.0.0.0", None, server_ip="255.255.255.255", server_mac=None, **unanswered),
        # other protocols: of the camera, and of what sends nothing else
        *[make("camera", IPS[A], A, protocol=1)] * 2,
        make("camera", "100.64.0.9", C, protocol=1),
    ]
    site.flows(1, *flows)
    census = site.census(1)
    assert left_out(census) == [
        ("router", GATE, None, 3, False, 1, 4),
        ("outside", None, "52.7.7.7", 1, False, 1, 2),
        ("no_host_address", None, "0.0.0.0", 1, False, 1, 1),
        ("unanswered", D, None, 2, False, 1, 2),
        ("unanswered", None, "10.0.0.7", 1, False, 1, 1),
        ("unanswered", A, IPS[A], 1, True, 1, 4),
        ("other_protocol", C, "100.64.0.9", 1, False, 1, 1),
        ("other_protocol", A, IPS[A], 1, True, 1, 2),
    ]
    metadata = census.metadata
    assert metadata["flows"] == metadata["flows_of_devices"] + sum(row[-1] for row in left_out(census)) == len(flows)
    assert metadata["flows_without_device"] == {"router": 4, "outside": 2, "no_host_address": 1, "unanswered": 7}
    assert metadata["flows_of_other_protocols"] == 3
    packets = pq.read_table(f"{census.uri}/_left_out.pq", partitioning=None)["packets"].to_pylist()
    assert sum(packets) == sum(flow["client_packets"] + flow["server_packets"] for flow in flows[3:])
    page = Path(census.uri, "_census.html").read_text(encoding="utf-8")
    assert "100.64.0.9" in page
    # in any order, with few listed, all are counted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "MAX_LISTED", 1)
        site.flows(1, *flows[::-1])
        assert left_out(site.census(1)) == [
            ("router", GATE, None, 3, False, 1, 4),
            ("outside", None, "52.7.7.7", 1, False, 1, 2),
            ("no_host_address", None, "0.0.0.0", 1, False, 1, 1),
            ("unanswered", D, None, 2, False, 1, 2),
            ("unanswered", None, None, 2, None, 2, 5),
            ("other_protocol", C, "100.64.0.9", 1, False, 1, 1),
            ("other_protocol", None, None, 1, None, 1, 2),
        ]


def test_take_census__packets_of_other_centuries_set_no_times(site: Site) -> None:
    make, far = site.make, datetime(2105, 1, 1, tzinfo=UTC)
    odd = make("camera", IPS[A], A) | {"last_seen": far}
    site.flows(
        1, *[make("camera", IPS[A], A)] * 3, odd, make("plug", IPS[B], B) | {"first_seen": far, "last_seen": far}
    )
    census = site.census(1)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert rows[A]["last_seen"].year == 2026
    assert rows[B]["last_seen"] < datetime(2026, 3, 15, tzinfo=UTC)
    assert rows[B]["first_seen"] == rows[B]["last_seen"]
    assert census.metadata["flows_of_other_dates"] == 2
    # and absent devices are remembered by the other times
    site.devices(2, b="plug")
    site.devices(3, b="plug")
    assert site.changes(2) == {A: "gone", B: "same"}
    assert site.changes(3, remember_days=20) == {A: "away", B: "same"}


def test_take_census__scores_the_whole_set_of_each_device(site: Site) -> None:
    sets = {
        A: [("camera", 0)] * 3, B: [("plug", 0), ("plug", 1)], C: [("odd", 0)] * 4,
        D: [*[("camera", n) for n in range(4)], *[("plug", n) for n in range(4)] * 2],
    }  # fmt: skip
    site.flows(1, *(site.make(pattern, IPS[mac], mac, n) for mac, shown in sets.items() for pattern, n in shown))
    small = stored(site.census(1, batch_rows=1)).to_pylist()  # a device's flows come in several batches
    rows = {row["device_id"]: row for row in small}
    assert {device: (row["status"], row["label"]) for device, row in rows.items()} == {
        A: ("known", "camera"), B: ("known", "plug"), C: ("unknown", None), D: ("several", None),
    }  # fmt: skip
    assert {one["label"] for one in rows[D]["kinds"]} == {"camera", "plug"}
    predictor = Predictor.load(site.model)
    distinct = sorted({each for shown in sets.values() for each in shown})
    flows = [site.make(pattern, "", None, n) for pattern, n in distinct]
    patterns = pa.table({name: [each[name] for each in flows] for name in ("packet_length", "tcp_window")})
    counts = csr_matrix([[shown.count(each) for each in distinct] for shown in sets.values()])
    assert predictor.learned.devices is not None
    answer = predictor.learned.devices.answer(predictor.encoding.encode(patterns), counts)
    settings = site.settings.census
    counted = answer.known_tokens.max(axis=1) >= settings.min_evidence
    share = share_of_households(answer.log_odds[counted], settings.behind)
    expected = decide(answer, share, np.asarray(counts.sum(axis=1)).ravel(), settings)
    for device, probability, unexplained in zip(sets, expected.probability, answer.unexplained, strict=True):
        assert rows[device]["confidence"] == pytest.approx(probability.max(), abs=1e-5)
        assert rows[device]["unexplained"] == pytest.approx(unexplained, abs=1e-5)


def test_take_census__p_values_need_a_model_with_held_out_scores(site: Site, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    site.flows(1, *(site.make("camera", IPS[A], A, n) for n in range(4)))
    assert site.rows(1)[A]["unlike_kind"] is None
    assert 0 < site.rows(1, unlike_kind=True)[A]["unlike_kind"] <= 1
    shutil.copytree(site.model, tmp_path / "earlier")
    weights = load_file(site.model / "weights.safetensors")
    kept = {name: array for name, array in weights.items() if not name.startswith("unlike_kind.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, tmp_path / "earlier" / "weights.safetensors")
    assert site.rows(1, model=tmp_path / "earlier")[A]["label"] == "camera"
    with pytest.raises(DataError, match=r"^census.unlike_kind: must be false with this model, .* train again"):
        site.census(1, model=tmp_path / "earlier", unlike_kind=True)


def test_take_census__forged_macs_with_little_traffic_get_no_label(site: Site) -> None:
    invented = [f"02:00:00:00:01:{number:02x}" for number in range(40)]
    flows = [site.make("camera", f"10.0.0.{n}", mac, 2) for n, mac in enumerate(invented) for _ in "123"]
    flows += [site.make("camera", IPS[A], A, variant) for variant in range(4)]
    flows += [site.make("plug", IPS[B], B, variant) for variant in range(4)]
    site.flows(1, *flows)
    rows = site.rows(1, behind="hosts", min_evidence=4)  # one packet again and again shows three tokens
    assert {device: rows[device]["label"] for device in (A, B)} == {A: "camera", B: "plug"}
    assert all((rows[mac]["label"], rows[mac]["kinds"]) == (None, []) for mac in invented)
    believed = site.rows(1, behind="hosts", min_evidence=3)
    assert {believed[mac]["label"] for mac in invented} == {"camera"}


def test_take_census__unanswered_packets_do_not_change_the_kind(site: Site) -> None:
    make = site.make
    own = [make("camera", IPS[A], A, variant) for variant in range(4)]
    stranger = {"server_ip": IPS[A], "server_mac": A, "server_port": 80}
    probes = [
        make("plug", f"52.9.{n % 6}.{n % 251}", "02:00:00:00:00:01", n % 4, **stranger, server_packets=0)
        for n in range(1500)
    ]
    site.flows(1, *own)
    site.flows(2, *own, *probes)
    calm, probed = site.rows(1)[A], site.rows(2)[A]
    compared = ("status", "label", "confidence", "kinds", "runners_up", "household", "reason", "flows", "bytes")
    assert (calm["status"], calm["label"], calm["flows"]) == ("known", "camera", 4)
    assert {name: probed[name] for name in compared} == {name: calm[name] for name in compared}
    assert probed["change"] == "same"
    metadata = site.census(2).metadata
    assert metadata["flows_without_device"] == {"unanswered": 1500}
    assert (metadata["flows"], metadata["flows_of_devices"], metadata["devices"]) == (1504, 4, 1)


def test_take_census__marks_macs_that_use_one_address_at_the_same_time(
    site: Site,
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def at(mac: str, address: str, *minutes: float, **more: Any) -> list[dict[str, Any]]:
        """Flows of ten seconds."""
        times = [(noon + timedelta(minutes=each), noon + timedelta(minutes=each, seconds=10)) for each in minutes]
        return [site.make("camera", address, mac, first_seen=one, last_seen=two, **more) for one, two in times]

    def marked(*flows: list[dict[str, Any]], **more: Any) -> list[str]:
        site.flows(1, *(flow for some in flows for flow in some), **more)
        census = site.census(1)
        rows = {row["device_id"]: row for row in stored(census).to_pylist()}
        found = [name for name, row in rows.items() if row["marks"]]
        assert all(rows[name]["marks"] == ["address_conflict"] for name in found)
        assert all(rows[name]["reason"].endswith(SENTENCES["address_conflict"]) for name in found)
        assert census.metadata["marks"] == {"address_conflict": len(found), "kinds_at_once": 0, "maker_differs": 0}
        return sorted(found)

    x, y = "192.168.1.10", "fe80::1"
    assert marked(at(A, x, 0, 0.5, 1), at(B, x, 0.7), at(C, "192.168.1.12", 0, 1)) == [A, B]
    assert marked(at(A, x, 0), at(B, x, 0.1)) == [A, B], "within one flow of the other"
    # DHCP: reassigned, and back again; a flow without a time-out that spans it all
    assert marked(at(A, x, 0, 1, 2), at(B, x, 2.2, 3, 4), at(C, x, 4.5)) == []
    assert marked(at(A, x, 0, 4, 5), at(B, x, 2)) == []
    long = {"last_seen": noon + timedelta(minutes=9)}
    assert marked([at(A, x, 0)[0] | long], at(B, x, 2, 4)) == []
    # the same address in two networks; at what routes; at what has none yet; and of what sent nothing
    assert marked(at(A, y, 0, 0.5, vlan=1), at(B, y, 0.2, vlan=2)) == []
    assert marked(at(A, x, 0, 0.5), at(GATE, x, 0.2)) == []
    assert marked(at(A, "0.0.0.0", 0, 0.5), at(B, "0.0.0.0", 0.2)) == []
    assert marked(at(A, x, 0, 0.5), at(B, x, 0.2, client_packets=0)) == []
    other = {"capture_file": "b.pcap"}
    assert marked(at(A, x, 0, 0.5), at(B, x, 0.2, **other)) == [A, B]
    assert marked(at(A, x, 0, 0.5), at(B, x, 0.2, **other), join_files=False) == []
    # within a flow, if it is known whose address it was
    inside = {"server_ip": "192.168.1.1", "address_conflict": True}
    assert marked(at(A, x, 0, address_conflict=True), at(B, "192.168.1.11", 1, **inside)) == [A]


@pytest.mark.parametrize("behind", ["hosts", "auto"])
def test_take_census__a_mac_with_two_kinds_at_the_same_time_is_marked(site: Site, behind: str) -> None:
    def shown(mac: str, *patterns: str) -> list[dict[str, Any]]:
        return [site.make(pattern, IPS[mac], mac, variant) for pattern in patterns for variant in (0, 1, 2, 3)]

    begin = datetime(2026, 1, 1, 12, tzinfo=UTC)
    in_turn = [
        flow | dict.fromkeys(("first_seen", "last_seen"), begin + timedelta(minutes=n))
        for n, flow in enumerate(shown(B, "camera", "plug"))
    ]
    at_once = [flow | {"first_seen": begin, "last_seen": begin} for flow in shown(A, "camera", "plug")]
    single = [{**each, "client_mac": f"02:00:00:00:01:0{n}", "client_ip": f"192.168.1.2{n}"} for n in range(9)
              for each in shown(C, "plug" if n % 2 else "camera")]  # fmt: skip
    site.flows(1, *in_turn, *at_once, *single)
    census = site.census(1, behind=behind)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {name for name, row in rows.items() if row["marks"] == ["kinds_at_once"]} == {A}
    assert rows[A]["reason"].endswith(SENTENCES["kinds_at_once"])
    assert census.metadata["marks"] == {"address_conflict": 0, "kinds_at_once": 1, "maker_differs": 0}
    households = stored(site.census(1, behind="households"))["marks"].to_pylist()
    assert not any(households), "in households several kinds are normal"


def test_take_census__a_kind_added_to_an_address_is_a_change_that_names_it(site: Site) -> None:
    def shown(*patterns: str) -> list[dict[str, Any]]:
        return [site.make(pattern, IPS[A], None, variant) for pattern in patterns for variant in (0, 1, 2, 3)]

    site.flows(1, *shown("plug"))
    site.flows(2, *shown("plug", "camera"))
    site.flows(3, *shown("plug"))
    rows = [site.rows(day, behind="households")[IPS[A]] for day in (1, 2, 3)]
    assert [row["status"] for row in rows] == ["known", "several", "known"]
    assert [(row["change"], row["previous_label"], row["new_kinds"]) for row in rows] == [
        ("baseline", None, []), ("changed", "plug", ["camera"]), ("same", "camera + plug", []),
    ]  # fmt: skip
    page = Path(site.store.uri("census", PartitionKey.of_date("lab", "2026-01-02")), "_census.html")
    assert "now also: <span>camera</span>" in page.read_text(encoding="utf-8")
