"""What `test_take` proves on Spark, as far as no Java is needed: flows are scored by a table instead of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid.census import check_watchlist, take, take_census
from iotid.census.changes import COMPARED
from iotid.census.groups import NO_GROUPS
from iotid.census.identify import ANSWERS, answers_from_arrow
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.census.score import Scored, _answers, _whole_devices
from iotid.config import Settings, Watchlist
from iotid.errors import AccountingError, DataError, NoModelError, PartitionError, SettingError, WatchError
from iotid.model.device import Answer
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import CENSUS, FLOWS, GROUPS, LEFT_OUT
from iotid.tracking import ModelVersion

A, B, C, D = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c", "0d"))
COLUMNS = [name for name in CENSUS.arrow_schema(stored=True).names if name not in ("watched", *COMPARED)]
WATCHED = {"labels": ["camera"], "vendors": ["Volt"], "types": [], "fail": False}
KEY = "one key of this test"


def _kinds(label: str | None) -> list[dict[str, Any]]:
    """The kinds that a label stands for, each named by its class alone; several are parted by +."""
    return [
        {"kind": f"{one}s", "label": one, "vendor": "Volt" if one == "plug" else None, "type": None, "confidence": 0.93,
         "flows": 3, "units": 1}
        for one in (label or "").split("+") if one not in ("", "undecided")
    ]  # fmt: skip


def _devices(day: int, labels: dict[str, str | None]) -> pa.Table:
    """What scoring gives for devices of these labels; None: unknown, undecided where the label says so."""
    seen = datetime(2026, 1, day, 12, tzinfo=UTC)
    rows = []
    for number, (device, label) in enumerate(sorted(labels.items())):
        kinds = _kinds(label)
        status = "unknown" if label is None else "undecided" if not kinds else "known" if len(kinds) == 1 else "several"
        only = kinds[0] if status == "known" else {}
        rows.append(
            {
                "device_id": device, "status": status, **{name: only.get(name) for name in ("label", "vendor", "type")},
                "confidence": 0.93, "kinds": kinds, "runners_up": [], "unexplained": 0.0, "household": 0.1,
                "reason": "Of 4 distinct flows: 4 like those of several kinds.", "marks": [], "group": None, "flows": 4,
                "bytes": 400,
                "first_seen": seen, "last_seen": seen + timedelta(minutes=1),
                "addresses": [f"192.168.1.{10 + number}"],
            }
        )  # fmt: skip
    schema = CENSUS.arrow_schema(stored=True)
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in COLUMNS]))


def _left_out(reason: str, mac: str | None, address: str | None, flows: int) -> dict[str, Any]:
    counts = {"addresses": 1, "ends": 1, "flows": flows, "packets": 2 * flows}
    return {"reason": reason, "mac": mac, "address": address, "in_census": False, **counts}


LEFT_OUT_ROWS = pa.Table.from_pylist(
    [_left_out("outside", None, "52.1.2.3", 3), _left_out("other_protocol", D, "192.168.1.13", 2)],
    schema=LEFT_OUT.arrow_schema(),
)

FLOW = {"length": "ip", "max_packets": 32}


class Site:
    """Nights of one site whose devices are told by label; a model of version 2 calls a camera a webcam."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self.store = settings, Store(settings.storage.root)
        self.shown: dict[str, dict[str, str | None]] = {}
        self.model = "1"
        self.lost = 0
        devices = {"camera": {"vendor": "Acme", "type": "camera"}, "plug": {"vendor": "Volt", "type": "plug"}}
        encoding = SimpleNamespace(labels=tuple(devices), devices=devices, misfit=lambda flow: flow.get("misfit"))
        monkeypatch.setattr(take, "ship_model", lambda spark, folder: (None, encoding))
        monkeypatch.setattr(take, "score_night", self._score)

    def _score(
        self, spark: Any, night: Partition, model: Any, encoding: Any, settings: Any, groups: pa.Table
    ) -> Scored:
        date = night.key["capture_date"]
        day = int(date[-2:])
        labels = self.shown[date]
        if self.model == "2":
            labels = {device: "webcam" if label == "camera" else label for device, label in labels.items()}
        return Scored(_devices(day, labels), groups, 4 * len(labels) - self.lost, LEFT_OUT_ROWS)

    def night(self, day: int, flow: dict[str, Any] | None = None, **labels: str | None) -> None:
        date = f"2026-01-{day:02}"
        self.shown[date] = {{"a": A, "b": B, "c": C, "d": D}[name]: label for name, label in labels.items()}
        with self.store.write("flows", PartitionKey.of_date("lab", date), FLOWS.version) as staged:
            told = {
                "rows": 4 * len(labels) + 5,
                "packets": {"flow": 40, "not_ip": 3},
                "settings": {"flow": FLOW | (flow or {})},
            }
            staged.metadata |= told

    def census(
        self, day: int, version: str = "1", watchlist: dict[str, Any] | None = None, **changes: Any
    ) -> Partition:
        self.model = version
        settings = self.settings.census.model_copy(update=changes)
        listed = Watchlist.model_validate(watchlist or WATCHED)
        return take_census(None, self.store, "lab", f"2026-01-{day:02}", Path("m"), version, settings, listed)  # type: ignore[arg-type]


@pytest.fixture
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(settings, monkeypatch)


def _changes(census: Partition) -> dict[str, tuple[str, str | None]]:
    rows = pq.read_table(census.uri, partitioning=None).to_pylist()
    return {row["device_id"]: (row["change"], row["previous_label"]) for row in rows}


def test_take_plain__counts_what_is_there_and_lists_what_is_gone(site: Site) -> None:
    site.night(1, a="camera", b="plug", c=None)
    site.night(2, a="camera", b="camera", d="undecided")
    first, second = site.census(1), site.census(2)
    assert _changes(first) == dict.fromkeys((A, B, C), ("first", None))
    assert _changes(second) == {
        A: ("same", "camera"), B: ("changed", "plug"), C: ("gone", None), D: ("new", None),
    }  # fmt: skip
    told = second.metadata
    assert (told["rows"], told["devices"], told["flows"], told["flows_of_devices"]) == (4, 3, 17, 12)
    assert (told["flows_of_other_protocols"], told["flows_without_device"]) == (2, {"outside": 3})
    assert told["status"] == {"known": 2, "several": 0, "several_with_unknown": 0, "undecided": 1, "unknown": 0}
    assert told["labels"] == {"camera": 2}
    assert (told["watched"], told["watched_labels"]) == (2, {"camera": 2})
    assert {name: count for name, count in told["changes"].items() if count} == {
        "same": 1, "changed": 1, "gone": 1, "new": 1,
    }  # fmt: skip
    assert told["compared_with"] == {"capture_date": "2026-01-01", "how": "as it was"}
    assert first.metadata["compared_with"] is None
    assert {"_census.html", "_census.csv", "_groups.csv", "_groups.parquet", "part-0.parquet"} <= {
        path.name for path in Path(second.uri).iterdir()
    }
    assert first.metadata["watched_labels"] == {"camera": 1, "plug": 1}, "the plug by its vendor"


def test_take_plain__what_is_left_out_lies_beside_the_rows_and_on_the_page(site: Site) -> None:
    site.night(1, a="camera")
    census = site.census(1)
    files = {name: Path(census.uri, name).read_text() for name in ("_left_out.csv", "_census.html")}
    assert pq.read_table(f"{census.uri}/_left_out.parquet", partitioning=None).equals(LEFT_OUT_ROWS)
    assert files["_left_out.csv"].splitlines() == [
        '"reason","mac","address","addresses","in_census","ends","flows","packets"',
        '"outside",,"52.1.2.3",1,false,1,3,6',
        f'"other_protocol","{D}","192.168.1.13",1,false,1,2,4',
    ]
    assert "What is left out" in files["_census.html"]
    for text in ("52.1.2.3", D, "3 flows, 6 packets"):
        assert text in files["_census.html"]


def test_take_plain__with_pseudonyms_what_is_left_out_shows_no_mac_or_address(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    site.night(1, a="camera")
    for mode in ("opaque", "prefixes"):
        census = site.census(1, pseudonyms=mode)
        for path in Path(census.uri).iterdir():
            for secret in (D, "52.1.2.3", "192.168.1.13"):
                assert secret.encode() not in path.read_bytes(), path
        rows = pq.read_table(f"{census.uri}/_left_out.parquet", partitioning=None).to_pylist()
        name = Pseudonyms(KEY.encode(), keep_prefixes=mode == "prefixes").of(pa.array([D])).to_pylist()[0]
        assert [(row["reason"], row["mac"]) for row in rows] == [("outside", None), ("other_protocol", name)]


def test_take_plain__the_latest_night_before_at_the_same_site_is_compared_with(site: Site) -> None:
    for day in (1, 3, 5):
        site.night(day, a="camera")
    site.census(1)
    site.census(5)
    assert site.census(3).metadata["compared_with"]["capture_date"] == "2026-01-01"
    with site.store.write("census", PartitionKey.of_date("other", "2026-01-02")):
        pass
    assert site.census(3).metadata["compared_with"]["capture_date"] == "2026-01-01"


def test_take_plain__under_another_model_the_night_before_is_scored_again_where_its_flows_are_there(site: Site) -> None:
    site.night(1, a="camera", b="plug", c="plug")
    site.night(2, a="camera", b="plug")
    site.night(3, a="camera", b="camera")
    site.census(1)
    site.census(2)
    again = site.census(3, version="2")
    assert again.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    assert _changes(again) == {A: ("same", "webcam"), B: ("changed", "plug"), C: ("away", "plug")}
    other_settings = site.census(3, min_flows=5)
    assert other_settings.metadata["compared_with"]["how"] == "scored again"
    site.night(2, flow={"misfit": "was cut otherwise"}, a="camera", b="plug")
    blind = site.census(3, version="2")
    assert blind.metadata["compared_with"]["how"] == "labels not compared"
    assert _changes(blind)[B] == ("same", "plug")


def test_take_plain__pseudonyms_are_joined_under_the_same_key_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.night(1, a="camera")
    site.night(2, a="camera")
    with monkeypatch.context() as with_key:
        with_key.setenv(KEY_VARIABLE, KEY)
        site.census(1, pseudonyms="opaque")
        joined = site.census(2, pseudonyms="opaque")
    name = Pseudonyms(KEY.encode()).of(pa.array([A])).to_pylist()[0]
    assert _changes(joined) == {name: ("same", "camera")}
    clear = site.census(2)
    assert clear.metadata["compared_with"]["how"] == "not joinable"
    assert _changes(clear) == {A: ("first", None)}
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match="there is no key"):
        site.census(2, pseudonyms="opaque")


UNKNOWN_GROUPS = pa.Table.from_pylist(
    [{"group": "gclear", "services": ["TCP 8883"], "protocol": [6], "payload_length": [777], "share": [1.0]}],
    schema=GROUPS.arrow_schema(),
)


@pytest.fixture
def grouped(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose unknown devices are of one group: of the first that the night before had, else of a new one."""

    def score(*given: Any) -> Scored:
        scored, groups = site._score(*given), given[-1] if len(given[-1]) else UNKNOWN_GROUPS
        named = pc.if_else(pc.equal(scored.devices["status"], "unknown"), groups["group"][0], scored.devices["group"])
        place = scored.devices.column_names.index("group")
        return replace(scored, devices=scored.devices.set_column(place, "group", named), groups=groups)

    monkeypatch.setattr(take, "score_night", score)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    site.night(1, a="camera", b=None, c=None)
    site.night(2, a="camera", b=None, d=None)
    return site


def _files(census: Partition) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(census.uri).iterdir()}


@pytest.mark.parametrize("mode", ["opaque", "prefixes"])
def test_take_plain__with_pseudonyms_nothing_beside_identifiers_joins_a_clear_census_of_the_same_night(
    grouped: Site, mode: str
) -> None:
    clear = grouped.census(1)
    files = {"clear": _files(clear)}
    rows = {"clear": pq.read_table(clear.uri, partitioning=None).to_pylist()}
    hidden = grouped.census(1, pseudonyms=mode)
    files["hidden"], rows["hidden"] = _files(hidden), pq.read_table(hidden.uri, partitioning=None).to_pylist()
    for name in ("device_id", "group", "reason", "flows", "bytes", "first_seen", "last_seen", "confidence"):
        values = {table: {row[name] for row in listed} - {None} for table, listed in rows.items()}
        assert not values["clear"] & values["hidden"], name
    left_out = [pq.read_table(pa.BufferReader(kept["_left_out.parquet"])) for kept in files.values()]
    for name in ("mac", "address", "flows", "packets"):
        assert not {*left_out[0][name].to_pylist()} & {*left_out[1][name].to_pylist()} - {None}, name
    assert {row["addresses"] == [] for row in rows["hidden"]} == {mode == "opaque"}
    assert files["hidden"].keys() ^ files["clear"].keys() == {"_groups.parquet", "_groups.sealed"}
    for name, content in files["hidden"].items():
        assert b"gclear" not in content, name
        assert b"PAR1" not in content or name in ("part-0.parquet", "_left_out.parquet")
        assert clear.metadata["settings_hash"].encode() not in content, "it tells the networks to whoever tries some"


def test_take_plain__groups_keep_their_keyed_names_from_night_to_night(grouped: Site) -> None:
    def names(day: int, **more: Any) -> set[str]:
        census = grouped.census(day, **{"pseudonyms": "opaque", **more})
        return {row["group"] for row in pq.read_table(census.uri, partitioning=None).to_pylist()} - {None}

    (first,) = names(1)
    assert first == f"g{Pseudonyms(KEY.encode()).word('gclear')[:10]}"
    assert names(2) == {first}
    assert names(2, version="2") == {first}, "also where the night before is scored again"
    assert names(2, pseudonyms="off") == {"gclear"}


def test_take_plain__a_pseudonymised_night_of_an_earlier_version_is_compared_with_and_groups_begin_anew(
    grouped: Site,
) -> None:
    before = grouped.census(1, pseudonyms="prefixes")
    (Path(before.uri) / "_groups.sealed").rename(Path(before.uri) / "_groups.parquet")
    after = grouped.census(2, pseudonyms="prefixes")
    assert after.metadata["compared_with"]["how"] == "as it was"
    assert set(pq.read_table(after.uri, partitioning=None)["change"].to_pylist()) == {"same", "gone", "new"}


def test_take_plain__pseudonyms_with_prefixes_and_without_are_not_joined(grouped: Site) -> None:
    grouped.census(1, pseudonyms="prefixes")
    assert grouped.census(2, pseudonyms="opaque").metadata["compared_with"]["how"] == "not joinable"
    assert grouped.census(2, pseudonyms="prefixes").metadata["compared_with"]["how"] == "as it was"


def test_take_plain__the_watch_list_is_asked_with_the_probabilities_as_they_are(grouped: Site) -> None:
    exact = WATCHED | {"labels": [{"name": "camera", "from": 0.92, "to": 0.94}], "vendors": []}
    assert grouped.census(1, watchlist=exact, pseudonyms="opaque").metadata["watched"] == 1


def test_take_plain__flows_that_are_lost_absent_or_cut_otherwise_are_errors(site: Site) -> None:
    site.night(1, a="camera")
    site.lost = 1
    said = "promises 9 flows, but 3 were scored and left out are 3 outside, 2 other_protocol, together 8"
    with pytest.raises(
        AccountingError,
        match=said,
    ):
        site.census(1)
    with pytest.raises(PartitionError, match="run iotid assemble-flows first"):
        site.census(2)
    site.night(1, flow={"misfit": "was cut otherwise"}, a="camera")
    with pytest.raises(DataError, match="was cut otherwise; assemble this night's flows"):
        site.census(1)
    assert not site.store.exists("census", PartitionKey.of_date("lab", "2026-01-01"))


def test_take_plain__a_watched_name_that_the_model_cannot_say_is_spoken_of(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.night(1, a="camera")
    site.census(1, watchlist=WATCHED | {"labels": ["camera", "camra"], "types": ["plug"]})
    assert caplog.messages == ["watchlist.labels: 'camra' is not among those of the model; did you mean camera?"]


def test_check_watchlist__is_an_error_only_where_it_is_asked_for_and_one_was_met(site: Site) -> None:
    site.night(1, a="camera", b="camera")
    site.night(2, c="lamp")
    first, second = site.census(1), site.census(2)
    asked = Watchlist.model_validate(WATCHED | {"fail": True})
    with pytest.raises(WatchError, match=r"lab, 2026-01-01, is written; watched devices: 2 \(2 camera\)"):
        check_watchlist(first, asked)
    check_watchlist(second, asked)
    check_watchlist(first, Watchlist.model_validate(WATCHED))


def _registry(**told: Any) -> Any:
    """A registry without a champion; ``told``: tags of its challenger, version 3, if there is one."""

    def version_of(alias: str) -> int:
        raise NoModelError("no version is champion; run iotid promote first")

    challenger = ModelVersion(3, "run", "2026-01-31", told) if told else None
    return SimpleNamespace(version_of=version_of, find_version=lambda alias: challenger)


def test_champion_of__says_that_promotion_refused_and_why() -> None:
    refused = "Refused: macro F1 0.1 is below the floor of 0.3 (promotion.min_macro_f1)."
    decision = f"Passed: there is no champion. {refused} Passed: it reads the same flows. Refused: that, too."
    with pytest.raises(NoModelError) as caught:
        take.champion_of(_registry(decision=decision, decided_on="home"))
    told = str(caught.value)
    assert f"promotion refused version 3. {refused} Refused: that, too. Learn from more captures" in told
    assert "iotid promote --dataset home" in told
    assert "Passed" not in told
    assert caught.value.exit_code == 4
    for registry in (_registry(), _registry(dataset="home"), _registry(decision="Passed: all is well.")):
        with pytest.raises(NoModelError, match="run iotid promote first"):
            take.champion_of(registry)
    assert take.champion_of(SimpleNamespace(version_of=lambda alias: 5)) == 5


def test_scored__counts_flows_of_devices_of_other_protocols_and_of_none() -> None:
    assert Scored(_devices(1, {}), NO_GROUPS, 5, LEFT_OUT_ROWS).flows == 10
    assert Scored(_devices(1, {}), NO_GROUPS, 5, LEFT_OUT_ROWS.slice(0, 0)).flows == 5


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("sizes", [(3, 1, 2, 4), (1, 1, 1), (7,), (1, 9)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_whole_devices__no_device_is_in_two_tables_and_no_row_is_lost(
    sizes: Sequence[int], batch: int, rows_at_once: int
) -> None:
    device = [f"d{number}" for number, size in enumerate(sizes) for _ in range(size)]
    rows = pa.table({"device_id": device, "flows": list(range(len(device)))})
    tables = list(_whole_devices(iter(rows.to_batches(max_chunksize=batch)), rows_at_once))
    assert pa.concat_tables(tables).to_pylist() == rows.to_pylist()
    of_table = [set(table["device_id"].to_pylist()) for table in tables]
    assert sum(map(len, of_table)) == len(sizes)
    assert all(len(table) <= rows_at_once + max(sizes) + batch for table in tables)
    assert list(_whole_devices(iter([]), 3)) == []


def test_answers__equal_flows_are_one_row_and_every_device_is_asked_of_once_with_all_its_flows() -> None:
    chance = np.random.default_rng(3)
    lengths = chance.integers(0, 3, (40, 2)).astype(np.int32)
    devices, repeats = [f"d{number // 10}" for number in range(40)], chance.integers(1, 5, 40)
    first = chance.integers(0, 3, 40) * 60_000_000  # of each row flows of two minutes, all within three
    asked: list[tuple[np.ndarray, Any, Any]] = []
    when: list[tuple[int, ...]] = []

    def answer(sequences: dict[str, np.ndarray], flows: Any, at_once: Any, seen: Any) -> Answer:
        """Says how many flows each device has of each of two kinds of flows."""
        asked.append((sequences["length"], flows, at_once))
        when.extend(zip(seen.set, seen.flow, seen.first_us, seen.last_us, strict=True))
        begins = np.stack([sequences["length"][:, 0] == first for first in (0, 1)], axis=1)
        share_BK, none_B = flows @ begins.astype(float), np.zeros(flows.shape[0])
        counts = (flows > 0).astype(np.int64) @ np.ones((flows.shape[1], 3), np.int64)
        return Answer(share_BK, share_BK, none_B, share_BK, none_B, none_B, counts, counts[:, 0], *[counts[:, :2]] * 4)

    encoding = SimpleNamespace(encode=lambda batch: {"length": np.array(batch["length"].to_pylist(), np.int32)})
    predictor: Any = SimpleNamespace(encoding=encoding, learned=SimpleNamespace(devices=SimpleNamespace(answer=answer)))
    times = {"open_us": repeats * 120_000_000, "first_seen": first, "last_seen": first + 180_000_000}
    rows = pa.table({"device_id": devices, "flows": repeats, "length": lengths.tolist(), **times})
    table = _answers(predictor, rows, ["length"])
    assert table.schema == ANSWERS
    assert table["device_id"].to_pylist() == ["d0", "d1", "d2", "d3"]
    assert table["num_flows"].to_pylist() == [int(repeats[at : at + 10].sum()) for at in range(0, 40, 10)]
    ((sequences, flows, at_once),) = asked
    assert sorted(map(tuple, sequences.tolist())) == sorted({tuple(row) for row in lengths.tolist()})
    assert flows.shape == at_once.shape == (4, len(sequences))
    for (place, of), most in at_once.todok().items():
        equal = [
            -(-2 * int(repeats[row]) // 3)  # so often three minutes are in the time of being open, rounded up
            for row in range(10 * place, 10 * place + 10)
            if (lengths[row] == sequences[of]).all()
        ]
        assert most == max(equal)
    assert at_once.nnz == flows.nnz
    rows_seen = [(n // 10, tuple(lengths[n]), first[n], first[n] + 180_000_000) for n in range(40)]
    assert [(of, tuple(sequences[flow]), *times) for of, flow, *times in when] == rows_seen
    told = answers_from_arrow(table)
    for place in range(4):
        own = slice(10 * place, 10 * place + 10)
        expected = [int(repeats[own][lengths[own, 0] == first].sum()) for first in (0, 1)]
        assert told.host[place].tolist() == expected
        assert told.distinct[place] == len({tuple(row) for row in lengths[own].tolist()})


def _as_version_3(site: Site, day: int, rows: pa.Table) -> Partition:
    """The census of the day as version 3 wrote it: several kinds without names, and nothing about why."""
    several = [
        [{name: one[name] for name in ("label", "vendor", "type", "confidence")} for one in kinds]
        if status == "several" else []
        for kinds, status in zip(rows["kinds"].to_pylist(), rows["status"].to_pylist(), strict=True)
    ]  # fmt: skip
    kind = pa.struct([*((name, pa.string()) for name in ("label", "vendor", "type")), ("confidence", pa.float64())])
    since = ["kinds", "unexplained", "household", "reason", "new_kinds", "marks"]
    stored = rows.drop_columns(since).append_column("several", pa.array(several, pa.list_(kind)))
    stored = stored.append_column("novelty", pa.nulls(len(rows), pa.float64()))
    before = site.store.open("census", PartitionKey.of_date("lab", f"2026-01-{day:02}"))
    with site.store.write("census", before.key, 3) as staged:
        pq.write_table(stored, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(NO_GROUPS, f"{staged.path}/_groups.parquet", filesystem=staged.filesystem)
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    return site.store.open("census", before.key)


def test_take_plain__a_census_of_version_3_is_the_night_before(site: Site) -> None:
    site.night(1, a="camera", b="camera+plug", c=None, d="undecided")
    site.night(2, a="camera", b="camera+plug", c="plug", d="camera")
    rows = pq.read_table(f"{site.census(1).uri}/part-0.parquet", partitioning=None)
    before = take._stored_rows(_as_version_3(site, 1, rows))
    assert before.schema == CENSUS.arrow_schema(stored=True)
    expected = [
        [{**one, "kind": one["label"], "flows": 0, "units": 1} for one in kinds] for kinds in rows["kinds"].to_pylist()
    ]
    assert before["kinds"].to_pylist() == expected
    assert before["status"].to_pylist() == ["known", "several", "unknown", "undecided"]
    assert set(before["reason"].to_pylist()) == {"Made by an earlier version."}
    assert before["new_kinds"].to_pylist() == [[]] * 4
    after = site.census(2)
    assert after.metadata["compared_with"]["how"] == "as it was"
    assert _changes(after) == {
        A: ("changed", "camera"), B: ("changed", "camera + plug"), C: ("changed", None), D: ("same", None),
    }  # fmt: skip
    later = site.census(2, version="2")
    assert later.metadata["compared_with"]["how"] == "scored again"


def test_take_plain__a_census_of_version_4_is_as_it_was_and_nothing_is_marked(site: Site) -> None:
    site.night(1, a="camera", b="camera+plug", c=None)
    site.night(2, a="camera", b="camera+plug", c=None)
    before = site.census(1)
    rows = pq.read_table(f"{before.uri}/part-0.parquet", partitioning=None)
    with site.store.write("census", before.key, 4) as staged:
        content = rows.drop_columns("marks")
        pq.write_table(content, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(NO_GROUPS, f"{staged.path}/_groups.parquet", filesystem=staged.filesystem)
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    assert take._stored_rows(site.store.open("census", before.key)).equals(rows)
    assert {change for change, _ in _changes(site.census(2)).values()} == {"same"}


def test_stored_rows__of_version_3_a_kind_without_a_label_is_called_by_vendor_and_type(site: Site) -> None:
    site.night(1, b="camera+plug")
    rows = pq.read_table(f"{site.census(1).uri}/part-0.parquet", partitioning=None)
    (kinds,) = rows["kinds"].to_pylist()
    kinds[0] |= {"label": None, "vendor": "Acme", "type": "camera"}
    place = rows.schema.get_field_index("kinds")
    rows = rows.set_column(place, rows.schema.field(place), pa.array([kinds], rows.schema.field(place).type))
    (found,) = take._stored_rows(_as_version_3(site, 1, rows))["kinds"].to_pylist()
    assert [(one["kind"], one["label"]) for one in found] == [("Acme camera", None), ("plug", "plug")]


def test_take_plain__what_came_to_an_address_is_named(site: Site) -> None:
    site.night(1, a="camera", b="plug", c=None)
    site.night(2, a="plug+camera", b="lamp", c="plug+camera")
    site.census(1)
    rows = pq.read_table(f"{site.census(2).uri}/part-0.parquet", partitioning=None).to_pylist()
    assert [(row["change"], row["new_kinds"]) for row in rows] == [
        ("changed", ["plug"]), ("changed", ["lamp"]), ("changed", ["plug", "camera"]),
    ]  # fmt: skip
