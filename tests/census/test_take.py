"""The census from flows to partition, on Spark, with a real small model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from iotid.census import check_watchlist, score, take_census
from iotid.census.marks import SENTENCES
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.config import Settings, Watchlist
from iotid.errors import AccountingError, DataError, PartitionError, SettingError, WatchError
from iotid.model import Predictor
from iotid.model.device import decide, share_of_households
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import CENSUS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
A, B, C, D = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c", "0d"))
WATCHED = {"labels": ["camera"], "vendors": [], "types": [], "fail": False}
KEY, OTHER_KEY = "one key of this test", "another key of this test"
IPS = {A: "192.168.1.10", B: "192.168.1.11", C: "192.168.1.12", D: "192.168.1.13"}


class Site:
    """Takes the census of made-up nights of one site."""

    def __init__(self, spark: SparkSession, settings: Settings, model: Path, make: Callable, write: Callable) -> None:
        self.spark, self.settings, self.model, self.make, self.write = spark, settings, model, make, write
        self.store = Store(settings.storage.root)

    def night(self, day: int, *flows: dict[str, Any], **more: Any) -> None:
        self.write(self.store, "lab", f"2026-01-{day:02}", flows, **more)

    def devices(self, day: int, **looks: str) -> None:
        """A night on which each device shows four equal flows of each look; looks are parted by +."""
        named = {"a": A, "b": B, "c": C, "d": D}
        self.night(
            day,
            *(
                self.make(look, IPS[named[name]], named[name])
                for name, shown in looks.items()
                for look in shown.split("+")
                for _ in "1234"
            ),
        )

    def census(self, day: int, version: str = "1", model: Path | None = None, **census: Any) -> Partition:
        settings = self.settings.census.model_copy(update=census)
        watchlist = Watchlist.model_validate(WATCHED)
        return take_census(
            self.spark, self.store, "lab", f"2026-01-{day:02}", model or self.model, version, settings, watchlist
        )

    def with_key(self, day: int, key: str, **more: Any) -> Partition:
        """The census under pseudonyms, with the key in the environment."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEY_VARIABLE, key)
            return self.census(day, **{"pseudonyms": "opaque", **more})

    def rows(self, day: int, **more: Any) -> dict[str, dict[str, Any]]:
        return {row["device_id"]: row for row in stored(self.census(day, **more)).to_pylist()}

    def changes(self, day: int, **more: Any) -> dict[str, str]:
        return {device: row["change"] for device, row in self.rows(day, **more).items()}


def stored(census: Partition) -> pa.Table:
    return pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)


@pytest.fixture(scope="module")
def model(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture
def site(spark: SparkSession, settings: Settings, model: Path, make_flow: Callable, write_night: Callable) -> Site:
    return Site(spark, settings, model, make_flow, write_night)


def test_take_census__names_devices_accounts_for_every_flow_and_writes_table_page_and_csv(site: Site) -> None:
    make = site.make
    site.night(
        1,
        *[make("camera", IPS[A], A)] * 3,
        make("camera", "fe80::a", A, server_ip="ff02::fb", server_mac="33:33:00:00:00:fb"),
        *[make("plug", "52.9.9.9", "02:00:00:00:00:01", server_ip=IPS[B], server_mac=B)] * 2,
        *[make("plug", "10.9.9.9", None)] * 2,
        *[make("odd", IPS[C], C)] * 2,
        make("plug", IPS[D], D),
        make("camera", "52.9.9.9", None),
        make("camera", "0.0.0.0", A, server_ip="255.255.255.255", server_mac="ff:ff:ff:ff:ff:ff"),
        *[make("camera", IPS[A], A, protocol=1)] * 5,
    )
    census = site.census(1, min_flows=2)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {device: (row["status"], row["label"], row["flows"]) for device, row in rows.items()} == {
        A: ("known", "camera", 5), B: ("known", "plug", 2), "10.9.9.9": ("known", "plug", 2),
        C: ("unknown", None, 2), D: ("undecided", None, 1),
    }  # fmt: skip
    assert rows[A]["addresses"] == [IPS[A], "fe80::a"]
    assert rows[A]["bytes"] == 5 * 3060
    assert (rows[A]["vendor"], rows[A]["type"], rows[A]["watched"]) == ("camera works", "camera", True)
    assert (rows[A]["first_seen"].second, rows[A]["last_seen"].second) == (0, 12 + 5)
    assert not rows[B]["watched"]
    assert rows[A]["confidence"] > 0.9
    assert [one["kind"] for one in rows[A]["kinds"]] == ["camera works camera"]
    assert rows[A]["reason"] == "Of 1 distinct flow: 1 like those of camera works camera alone."
    told = census.metadata
    assert (told["flows"], told["flows_of_devices"], told["flows_of_other_protocols"]) == (18, 12, 5)
    assert told["flows_without_device"] == {"outside": 1}
    assert told["status"] == {"known": 3, "several": 0, "several_with_unknown": 0, "undecided": 1, "unknown": 1}
    assert told["labels"] == {"camera": 1, "plug": 2}
    assert told["changes"]["first"] == told["devices"] == told["rows"] == 5
    assert (told["watched"], told["model_version"], told["compared_with"]) == (1, "1", None)
    assert told["packets"] == {"flow": 72, "not_ip": 3}
    assert stored(census).schema.equals(CENSUS.arrow_schema(stored=True))
    assert site.spark.read.parquet(census.uri).count() == 5
    assert A in Path(census.uri, "_census.html").read_text(encoding="utf-8")
    assert len(Path(census.uri, "_census.csv").read_text(encoding="utf-8").splitlines()) == 1 + 5


def left_out(census: Partition) -> list[tuple[Any, ...]]:
    rows = pq.read_table(f"{census.uri}/_left_out.parquet", partitioning=None)
    return list(zip(*(rows[name].to_pylist() for name in rows.column_names if name != "packets"), strict=True))


GATE = "02:00:00:00:00:01"


def test_take_census__what_is_left_out_is_listed_by_mac_and_reason_and_every_flow_is_there(site: Site) -> None:
    make, asked = site.make, {"server_packets": 0}
    camera = {"server_ip": IPS[A], "server_mac": A}
    flows = [
        *[make("camera", IPS[A], A)] * 3,
        # strangers ask the camera, a MAC that shows itself nowhere else, and one without a MAC
        *[make("plug", f"52.9.9.{n}", GATE, **camera, **asked) for n in range(4)],
        *[make("plug", "52.9.9.9", GATE, server_ip=f"203.0.113.{n}", server_mac=D, **asked) for n in (7, 8)],
        make("plug", "52.9.9.9", GATE, server_ip="10.0.0.7", server_mac=None, **asked),
        # the router forwards a stranger's call to all, from three addresses
        *[make("plug", f"52.8.8.{n}", GATE, server_ip="224.0.0.1", server_mac=None, **asked) for n in (1, 2, 3, 3)],
        # nobody shows a MAC
        *[make("plug", "52.7.7.7", None, server_ip="52.7.7.8", server_mac=None)] * 2,
        make("plug", "0.0.0.0", None, server_ip="255.255.255.255", server_mac=None, **asked),
        # other protocols: of the camera, and of what sends nothing else
        *[make("camera", IPS[A], A, protocol=1)] * 2,
        make("camera", "100.64.0.9", C, protocol=1),
    ]
    site.night(1, *flows)
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
    told = census.metadata
    assert told["flows"] == told["flows_of_devices"] + sum(row[-1] for row in left_out(census)) == len(flows)
    assert told["flows_without_device"] == {"router": 4, "outside": 2, "no_host_address": 1, "unanswered": 7}
    assert told["flows_of_other_protocols"] == 3
    packets = pq.read_table(f"{census.uri}/_left_out.parquet", partitioning=None)["packets"].to_pylist()
    assert sum(packets) == sum(flow["client_packets"] + flow["server_packets"] for flow in flows[3:])
    page = Path(census.uri, "_census.html").read_text(encoding="utf-8")
    assert "100.64.0.9" in page
    # in whatever order, whatever few are listed, all are counted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "MOST_LEFT_OUT", 1)
        site.night(1, *flows[::-1])
        assert left_out(site.census(1)) == [
            ("router", GATE, None, 3, False, 1, 4),
            ("outside", None, "52.7.7.7", 1, False, 1, 2),
            ("no_host_address", None, "0.0.0.0", 1, False, 1, 1),
            ("unanswered", D, None, 2, False, 1, 2),
            ("unanswered", None, None, 2, None, 2, 5),
            ("other_protocol", C, "100.64.0.9", 1, False, 1, 1),
            ("other_protocol", None, None, 1, None, 1, 2),
        ]


def test_take_census__packets_of_other_centuries_are_counted_and_date_nothing(site: Site) -> None:
    make, far = site.make, datetime(2105, 1, 1, tzinfo=UTC)
    odd = make("camera", IPS[A], A) | {"last_seen": far}
    site.night(
        1, *[make("camera", IPS[A], A)] * 3, odd, make("plug", IPS[B], B) | {"first_seen": far, "last_seen": far}
    )
    census = site.census(1)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert rows[A]["last_seen"].year == 2026
    assert rows[B]["last_seen"] < datetime(2026, 3, 15, tzinfo=UTC)
    assert rows[B]["first_seen"] == rows[B]["last_seen"]
    assert census.metadata["flows_of_other_dates"] == 2
    # and the memory for who is away goes by the other times
    site.devices(2, b="plug")
    site.devices(3, b="plug")
    assert site.changes(2) == {A: "gone", B: "same"}
    assert site.changes(3, remember_days=20) == {A: "away", B: "same"}


def test_take_census__asks_the_device_model_of_each_devices_whole_set(site: Site) -> None:
    sets = {
        A: [("camera", 0)] * 3, B: [("plug", 0), ("plug", 1)], C: [("odd", 0)] * 4,
        D: [*[("camera", n) for n in range(4)], *[("plug", n) for n in range(4)] * 2],
    }  # fmt: skip
    site.night(1, *(site.make(look, IPS[mac], mac, n) for mac, shown in sets.items() for look, n in shown))
    small = stored(site.census(1, batch_rows=1)).to_pylist()  # a device's flows come in several batches
    rows = {row["device_id"]: row for row in small}
    assert {device: (row["status"], row["label"]) for device, row in rows.items()} == {
        A: ("known", "camera"), B: ("known", "plug"), C: ("unknown", None), D: ("several", None),
    }  # fmt: skip
    assert {one["label"] for one in rows[D]["kinds"]} == {"camera", "plug"}
    predictor = Predictor.load(site.model)
    distinct = sorted({each for shown in sets.values() for each in shown})
    flows = [site.make(look, "", None, n) for look, n in distinct]
    looks = pa.table({name: [each[name] for each in flows] for name in ("packet_length", "tcp_window")})
    counts = csr_matrix([[shown.count(each) for each in distinct] for shown in sets.values()])
    assert predictor.learned.devices is not None
    answer = predictor.learned.devices.answer(predictor.encoding.encode(looks), counts)
    settings = site.settings.census
    counted = answer.evidence.max(axis=1) >= settings.min_evidence
    share = share_of_households(answer.log_odds[counted], settings.behind)
    expected = decide(answer, share, np.asarray(counts.sum(axis=1)).ravel(), settings)
    for device, probability, unexplained in zip(sets, expected.probability, answer.unexplained, strict=True):
        assert rows[device]["confidence"] == pytest.approx(probability.max(), abs=1e-5)
        assert rows[device]["unexplained"] == pytest.approx(unexplained, abs=1e-5)


def test_take_census__invented_macs_that_show_too_little_get_no_name(site: Site) -> None:
    invented = [f"02:00:00:00:01:{number:02x}" for number in range(40)]
    flows = [site.make("camera", f"10.0.0.{n}", mac, 2) for n, mac in enumerate(invented) for _ in "123"]
    flows += [site.make("camera", IPS[A], A, variant) for variant in range(4)]
    flows += [site.make("plug", IPS[B], B, variant) for variant in range(4)]
    site.night(1, *flows)
    rows = site.rows(1, behind="hosts", min_evidence=4)  # one packet again and again shows three tokens
    assert {device: rows[device]["label"] for device in (A, B)} == {A: "camera", B: "plug"}
    assert all((rows[mac]["label"], rows[mac]["kinds"]) == (None, []) for mac in invented)
    believed = site.rows(1, behind="hosts", min_evidence=3)
    assert {believed[mac]["label"] for mac in invented} == {"camera"}


def test_take_census__a_model_that_learned_no_sets_is_refused(site: Site, model_folder: Callable[..., Path]) -> None:
    site.devices(1, a="camera")
    with pytest.raises(DataError, match=r"learned no sets of flows; write the dataset and train again"):
        site.census(1, model=model_folder(sets=False))


def test_take_census__packets_that_nobody_answered_do_not_change_what_a_camera_is_called(site: Site) -> None:
    make = site.make
    own = [make("camera", IPS[A], A, variant) for variant in range(4)]
    stranger = {"server_ip": IPS[A], "server_mac": A, "server_port": 80}
    probes = [
        make("plug", f"52.9.{n % 6}.{n % 251}", "02:00:00:00:00:01", n % 4, **stranger, server_packets=0)
        for n in range(1500)
    ]
    site.night(1, *own)
    site.night(2, *own, *probes)
    calm, probed = site.rows(1)[A], site.rows(2)[A]
    said = ("status", "label", "confidence", "kinds", "runners_up", "household", "reason", "flows", "bytes")
    assert (calm["status"], calm["label"], calm["flows"]) == ("known", "camera", 4)
    assert {name: probed[name] for name in said} == {name: calm[name] for name in said}
    assert probed["change"] == "same"
    told = site.census(2).metadata
    assert told["flows_without_device"] == {"unanswered": 1500}
    assert (told["flows"], told["flows_of_devices"], told["devices"]) == (1504, 4, 1)


def test_take_census__macs_that_use_one_address_at_the_same_time_are_marked_and_those_in_sequence_are_not(
    site: Site,
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def at(mac: str, address: str, *minutes: float, **more: Any) -> list[dict[str, Any]]:
        """Flows of ten seconds."""
        times = [(noon + timedelta(minutes=each), noon + timedelta(minutes=each, seconds=10)) for each in minutes]
        return [site.make("camera", address, mac, first_seen=one, last_seen=two, **more) for one, two in times]

    def marked(*flows: list[dict[str, Any]], **more: Any) -> list[str]:
        site.night(1, *(flow for some in flows for flow in some), **more)
        census = site.census(1)
        rows = {row["device_id"]: row for row in stored(census).to_pylist()}
        found = [name for name, row in rows.items() if row["marks"]]
        assert all(rows[name]["marks"] == ["address_conflict"] for name in found)
        assert all(rows[name]["reason"].endswith(SENTENCES["address_conflict"]) for name in found)
        assert census.metadata["marks"] == {"address_conflict": len(found), "kinds_at_once": 0}
        return sorted(found)

    x, y = "192.168.1.10", "fe80::1"
    assert marked(at(A, x, 0, 0.5, 1), at(B, x, 0.7), at(C, "192.168.1.12", 0, 1)) == [A, B]
    assert marked(at(A, x, 0), at(B, x, 0.1)) == [A, B], "within one flow of the other"
    # DHCP: handed on, handed back, and at once; a flow without a time-out that spans it all
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
def test_take_census__a_mac_that_shows_two_kinds_at_the_same_time_is_marked(site: Site, behind: str) -> None:
    def shown(mac: str, *looks: str) -> list[dict[str, Any]]:
        return [site.make(look, IPS[mac], mac, variant) for look in looks for variant in (0, 1, 2, 3)]

    begin = datetime(2026, 1, 1, 12, tzinfo=UTC)
    in_turn = [
        flow | dict.fromkeys(("first_seen", "last_seen"), begin + timedelta(minutes=n))
        for n, flow in enumerate(shown(B, "camera", "plug"))
    ]
    at_once = [flow | {"first_seen": begin, "last_seen": begin} for flow in shown(A, "camera", "plug")]
    single = [{**each, "client_mac": f"02:00:00:00:01:0{n}", "client_ip": f"192.168.1.2{n}"} for n in range(9)
              for each in shown(C, "plug" if n % 2 else "camera")]  # fmt: skip
    site.night(1, *in_turn, *at_once, *single)
    census = site.census(1, behind=behind)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {name for name, row in rows.items() if row["marks"] == ["kinds_at_once"]} == {A}
    assert rows[A]["reason"].endswith(SENTENCES["kinds_at_once"])
    assert census.metadata["marks"] == {"address_conflict": 0, "kinds_at_once": 1}
    households = stored(site.census(1, behind="households"))["marks"].to_pylist()
    assert not any(households), "where households are said to be, several kinds are no news"


def test_take_census__a_kind_that_comes_to_an_address_is_a_change_that_names_it(site: Site) -> None:
    def shown(*looks: str) -> list[dict[str, Any]]:
        return [site.make(look, IPS[A], None, variant) for look in looks for variant in (0, 1, 2, 3)]

    site.night(1, *shown("plug"))
    site.night(2, *shown("plug", "camera"))
    site.night(3, *shown("plug"))
    rows = [site.rows(day, behind="households")[IPS[A]] for day in (1, 2, 3)]
    assert [row["status"] for row in rows] == ["known", "several", "known"]
    assert [(row["change"], row["previous_label"], row["new_kinds"]) for row in rows] == [
        ("first", None, []), ("changed", "plug", ["camera"]), ("same", "camera + plug", []),
    ]  # fmt: skip
    page = Path(site.store.uri("census", PartitionKey.of_date("lab", "2026-01-02")), "_census.html")
    assert "now also: <span>camera</span>" in page.read_text(encoding="utf-8")


def test_take_census__new_gone_away_back_and_changed_over_four_nights(site: Site) -> None:
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", c="camera")
    site.devices(3, a="plug", d="plug")
    site.devices(4, a="plug", b="plug", c="odd")
    for elsewhere, day in (("lab2", 1), ("lab", 9)):  # another site, and a later night: neither is compared with
        with site.store.write("census", PartitionKey.of_date(elsewhere, f"2026-01-{day:02}")):
            pass
    assert site.changes(1) == {A: "first", B: "first", C: "first"}
    assert site.changes(2) == {A: "same", B: "gone", C: "same"}
    third = site.rows(3)
    assert {device: row["change"] for device, row in third.items()} == {A: "changed", B: "away", C: "gone", D: "new"}
    assert (third[A]["previous_label"], third[A]["label"]) == ("camera", "plug")
    assert (third[B]["flows"], third[B]["label"]) == (0, "plug")
    fourth = site.census(4)
    assert {change: count for change, count in fourth.metadata["changes"].items() if count} == {
        "same": 1, "back": 2, "gone": 1,
    }  # fmt: skip
    assert fourth.metadata["devices"] == 3
    assert fourth.metadata["status"] == {
        "known": 2, "several": 0, "several_with_unknown": 0, "undecided": 0, "unknown": 1,
    }  # fmt: skip


def test_take_census__again_or_with_other_batches_and_partitions_gives_the_same_rows(site: Site) -> None:
    site.devices(1, a="camera", b="plug")
    site.night(2, *(site.make(look, ip, mac) for mac, ip in IPS.items() for look in ("camera", "plug", "odd", "plug")))
    site.census(1)
    once = stored(site.census(2))
    assert stored(site.census(2)).equals(once)
    name = "spark.sql.shuffle.partitions"
    usual = str(site.spark.conf.get(name))
    try:
        site.spark.conf.set(name, "7")
        assert stored(site.census(2, batch_rows=1)).equals(once)
    finally:
        site.spark.conf.set(name, usual)


def test_take_census__another_model_is_no_change_of_the_network(site: Site, model_folder: Callable[..., Path]) -> None:
    other = model_folder(("webcam", "socket"))
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", b="plug")
    site.devices(3, a="camera", b="camera", c="camera")
    site.census(1)
    site.census(2)
    census = site.census(3, version="2", model=other)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert census.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    assert {device: (row["change"], row["label"], row["previous_label"]) for device, row in rows.items()} == {
        A: ("same", "webcam", "webcam"), B: ("changed", "webcam", "socket"), C: ("back", "webcam", "camera"),
    }  # fmt: skip
    shutil.rmtree(site.store.uri("flows", PartitionKey.of_date("lab", "2026-01-02")))
    blind = site.census(3, version="2", model=other)
    assert blind.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "labels not compared"}
    told = {row["device_id"]: row["change"] for row in stored(blind).to_pylist()}
    assert told == {A: "same", B: "same", C: "back"}


def groups_of(census: Partition) -> set[str]:
    return set(pq.read_table(f"{census.uri}/_groups.parquet", partitioning=None)["group"].to_pylist())


def test_take_census__groups_keep_their_names_while_the_census_remembers_a_device_of_theirs(
    site: Site, model_folder: Callable[..., Path]
) -> None:
    site.devices(1, a="odd", b="odd", c="camera")
    site.devices(2, a="camera", b="camera", c="camera")
    site.devices(3, b="odd", c="camera", d="odd")
    first = site.rows(1)
    name = first[A]["group"]
    assert (first[A]["group"], first[B]["group"], first[C]["group"]) == (name, name, None)
    assert groups_of(site.census(1)) == {name}
    assert site.census(1).metadata["groups"] == 1
    assert groups_of(site.census(2)) == set()  # both have a name now, and nobody of the group is away
    again = site.census(3, version="2", model=model_folder(("webcam", "socket")))
    rows = {row["device_id"]: row for row in stored(again).to_pylist()}
    assert rows[B]["group"] == rows[D]["group"] == name  # of what it sends, so the same where nothing is remembered
    site.devices(4, c="camera")
    absent = {row["device_id"]: row for row in stored(site.census(4)).to_pylist()}
    assert (absent[B]["change"], absent[B]["group"], absent[C]["group"]) == ("gone", name, None)
    assert groups_of(site.census(4)) == {name}
    assert absent.keys() == {A, B, C, D}
    assert site.census(4).metadata["groups"] == 0


def test_take_census__a_census_of_version_2_before_it_has_no_groups_and_kinds_only_by_label(site: Site) -> None:
    site.devices(1, a="odd", b="camera")
    site.devices(2, b="camera")
    before = site.census(1)
    since = ["group", "kinds", "unexplained", "household", "reason", "new_kinds", "marks"]
    rows = stored(before).drop_columns(since)
    with site.store.write("census", before.key, 2) as staged:
        pq.write_table(rows, f"{staged.path}/part-0.parquet")
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    after = site.rows(2)
    assert {device: (row["change"], row["previous_label"], row["group"]) for device, row in after.items()} == {
        A: ("gone", None, None), B: ("same", "camera", None),
    }  # fmt: skip
    assert (after[A]["kinds"], after[A]["reason"]) == ([], "Made by an earlier version.")


def test_take_census__an_empty_night_is_a_whole_census_on_which_all_are_gone(site: Site) -> None:
    site.devices(1, a="camera")
    site.census(1)
    site.night(2)
    assert site.changes(2) == {A: "gone"}


def test_take_census__flows_that_were_promised_and_are_missing_fail_it_and_leave_nothing(site: Site) -> None:
    site.night(1, *[site.make("camera", IPS[A], A)] * 3, rows=4)
    with pytest.raises(AccountingError, match=r"promises 4 flows, but 3 were scored and left out are none, together 3"):
        site.census(1)
    assert not site.store.exists("census", PartitionKey.of_date("lab", "2026-01-01"))


def test_take_census__flows_unlike_those_learned_or_absent_are_refused(site: Site) -> None:
    with pytest.raises(PartitionError, match="flows: no whole partition"):
        site.census(1)
    site.night(1, length="frame")
    with pytest.raises(DataError, match=r"flow\.length=frame, the model learned ip"):
        site.census(1)
    site.night(1, max_packets=3)
    with pytest.raises(DataError, match=r"flow\.max_packets=3, the model reads 4"):
        site.census(1)


@pytest.mark.parametrize("mode", ["opaque", "prefixes"])
def test_take_census__under_pseudonyms_no_mac_address_or_key_is_written_nor_logged(
    site: Site, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    site.night(
        1,
        *[site.make("camera", IPS[A], A)] * 3,
        *[site.make("camera", "fe80::aa:1", A, server_ip="ff02::fb", server_mac="33:33:00:00:00:fb")] * 2,
        *[site.make("plug", "10.9.9.9", None)] * 2,
        *[site.make("odd", "fd00::7:7", None)] * 2,
    )
    census = site.with_key(1, KEY, pseudonyms=mode)
    pseudonyms = Pseudonyms(KEY.encode(), keep_prefixes=mode == "prefixes")
    a, plug, odd = pseudonyms.of(pa.array([A, "10.9.9.9", "fd00::7:7"])).to_pylist()
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {device: row["label"] for device, row in rows.items()} == {a: "camera", plug: "plug", odd: None}
    listed = sorted(pseudonyms.of(pa.array([IPS[A], "fe80::aa:1"])).to_pylist())
    assert rows[a]["addresses"] == (listed if mode == "prefixes" else [])
    assert rows[plug]["addresses"] == [plug]
    assert census.metadata["key_fingerprint"] == pseudonyms.fingerprint
    files = {path.name: path.read_bytes() for path in Path(census.uri).rglob("*") if path.is_file()}
    assert {"_census.html", "_census.csv", "_METADATA.json", "part-0.parquet"} <= set(files)
    secret = [A, IPS[A], "fe80::aa:1", "10.9.9.9", "fd00::7:7", KEY]
    files["rows"] = str(stored(census).to_pylist()).encode()  # Parquet's own bytes may be compressed
    for text in secret:
        assert not [name for name, content in files.items() if text.encode() in content]
        assert text not in caplog.text
    clear = Path(site.census(1).uri)  # what was looked for would have been found
    for text in secret[:-1]:
        assert all(text.encode() in (clear / name).read_bytes() for name in ("_census.html", "_census.csv"))


def test_take_census__nights_join_under_one_key_and_not_under_two(site: Site) -> None:
    for day, looks in enumerate(({"a": "camera", "b": "plug"}, {"a": "plug", "c": "plug"}, {"c": "plug"}), start=1):
        site.devices(day, **looks)
    a, b, c = Pseudonyms(KEY.encode()).of(pa.array([A, B, C])).to_pylist()
    site.with_key(1, KEY)
    second = site.with_key(2, KEY)
    assert {row["device_id"]: row["change"] for row in stored(second).to_pylist()} == {
        a: "changed",
        b: "gone",
        c: "new",
    }
    assert second.metadata["compared_with"] == {"capture_date": "2026-01-01", "how": "as it was"}
    apart = {"capture_date": "2026-01-02", "how": "not joinable"}
    for third in (site.with_key(3, OTHER_KEY), site.census(3)):
        assert third.metadata["compared_with"] == apart
        assert [row["change"] for row in stored(third).to_pylist()] == ["first"]
    third = site.with_key(3, KEY)
    assert {row["device_id"]: row["change"] for row in stored(third).to_pylist()} == {a: "gone", b: "away", c: "same"}


def test_take_census__the_night_before_is_scored_again_under_the_same_pseudonyms(
    site: Site, model_folder: Callable[..., Path]
) -> None:
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", b="plug")
    site.devices(3, a="camera", b="camera", c="camera")
    site.with_key(1, KEY)
    site.with_key(2, KEY)
    census = site.with_key(3, KEY, version="2", model=model_folder(("webcam", "socket")))
    assert census.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    told = {row["device_id"]: (row["change"], row["previous_label"]) for row in stored(census).to_pylist()}
    names = Pseudonyms(KEY.encode()).of(pa.array([A, B, C])).to_pylist()
    assert told == dict(zip(names, [("same", "webcam"), ("changed", "socket"), ("back", "camera")], strict=True))


def test_take_census__without_a_key_is_refused_before_anything_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match=r"census\.pseudonyms: is opaque, but there is no key"):
        site.census(1, pseudonyms="opaque")


def test_check_watchlist__a_met_device_is_an_error_of_its_own_only_where_it_is_asked_for(site: Site) -> None:
    site.devices(1, a="camera", b="camera", c="plug")
    site.devices(2, c="plug")
    first, second = site.census(1), site.census(2)
    assert first.metadata["watched_labels"] == {"camera": 2}
    asked = Watchlist.model_validate(WATCHED | {"fail": True})
    with pytest.raises(WatchError, match=r"lab, 2026-01-01, is written; watched devices: 2 \(2 camera\)") as caught:
        check_watchlist(first, asked)
    assert caught.value.exit_code == 3
    assert A not in str(caught.value)
    check_watchlist(second, asked)  # both cameras are gone: none was met on this night
    check_watchlist(first, Watchlist.model_validate(WATCHED))
