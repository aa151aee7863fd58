"""The step over a store: sites complete, partial and missing; dates that heal; what is not summed again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from iotid.census.network import read as network_read
from iotid.census.network import take as network_take
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.errors import AbsentError, InputError
from iotid.partitions import Partition

from .network_store import NetworkStore, kind, of_all, read

A, C = {100: 0.5, 200: 0.5}, {400: 0.5, 500: 0.5}
KEY = "one key of this test"


def _states(network: Partition) -> dict[str, tuple[str, str]]:
    return {row["site"]: (row["state"], row["reason"]) for row in read(network, "_sites.pq")}


def _content(network: Partition) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(network.uri).iterdir()}


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dates that are summed, in order."""
    dates: list[str] = []
    original = network_take.read_sites

    def recording(spark: Any, store: Any, capture_date: str, *rest: Any) -> Any:
        dates.append(capture_date)
        return original(spark, store, capture_date, *rest)

    monkeypatch.setattr(network_take, "read_sites", recording)
    return dates


def test_take__sums_the_sites_and_writes_every_file(network: NetworkStore) -> None:
    network.census("a", 2, [{}, {"change": "new"}, {"change": "gone"}], {"g1": A})
    network.census("b", 2, [{"watched": True}], {"g2": A})
    found = network.network(2)
    plug = of_all(found, "type")["plug"]
    assert (plug["found"], plug["new"], plug["gone"], plug["remembered"], plug["sites"]) == (3, 1, 1, 4, 2)
    assert plug["expected"] == pytest.approx(2.7)
    assert {item: row["found"] for item, row in of_all(found, "group").items()} == {"g1": 2}
    assert read(found, "_members.pq")[1] == {"site": "b", "site_group": "g2", "group_name": "g1"}
    assert read(found, "_groups.pq")[0]["makers"] == ["Nova"]
    metadata = found.metadata
    assert (metadata["addresses"], metadata["watched"], metadata["groups"]) == (5, 1, 1)
    assert metadata["sites"] == {"complete": 2, "partial": 0, "missing": 0}
    assert {"_network.html", "_network.csv", "_sites.csv", "_groups.csv", "_profiles.pq", "part-0.parquet"} <= {
        path.name for path in Path(found.uri).iterdir()
    }


def test_take__rows_are_the_same_without_stored_totals(network: NetworkStore) -> None:
    rows = {}
    for totals in (True, False):
        network.census("a", 2, [{}, {"kinds": [kind("q", 0.7, type="lamp")]}], {"g1": A}, totals=totals)
        rows[totals] = read(network.network(2))
    assert rows[True] == rows[False]


def test_take__counts_missing_and_partial_sites_with_the_reason(network: NetworkStore) -> None:
    for site in ("a", "b", "c", "d"):
        network.census(site, 2, [{}], model_version="2" if site == "c" else "1", unreadable=3 * (site == "b"))
    network.flows("d", 2, rows=99)
    network.flows("e", 2, rows=9)
    found = network.network(2, ["a", "b", "c", "d", "e", "f"])
    assert _states(found) == {
        "a": ("complete", ""),
        "b": ("partial", "3 captures in quarantine"),
        "c": ("partial", "its census has model version 2, that of most sites model version 1"),
        "d": ("partial", "its flows were assembled again after its census: take the census again"),
        "e": ("missing", "there are flows of the date, but no census"),
        "f": ("missing", "no captures of the date"),
    }
    assert found.metadata["sites"] == {"complete": 1, "partial": 3, "missing": 2}
    assert of_all(found, "all")["addresses"]["found"] == 4
    assert found.metadata["models"] == ["1", "2"]


def test_take__without_site_expects_those_with_a_census_in_the_window(network: NetworkStore) -> None:
    network.census("old", 1, [{}])
    network.census("a", 8, [{}])
    network.census("b", 9, [{}])
    assert list(_states(network.network(9, days=5))) == ["a", "b"]
    assert _states(network.network(9, days=9))["old"][0] == "missing"


def test_take__of_no_site_at_all_is_refused_in_one_line(network: NetworkStore) -> None:
    with pytest.raises(InputError, match=r"no site has a census from 2026-01-01 to 2026-01-09.*--site"):
        network.network(9, days=9)
    network.census("a", 1, [{}])
    assert network.network(9, ["a"], days=5).metadata["sites"]["missing"] == 1


def test_take__of_misspelt_sites_alone_is_refused_and_changes_nothing(
    network: NetworkStore, caplog: pytest.LogCaptureFixture
) -> None:
    network.census("home", 1, [{}])
    before = network.network(1).metadata["rows"]
    with pytest.raises(
        AbsentError, match=r"no completed data for site hme on any date; sites with data: home; correct"
    ):
        network.network(1, ["hme"])
    assert network.stored(1).metadata["rows"] == before
    found = network.network(1, ["home", "new"])
    assert "site new has no data on any date, and counts as missing" in caplog.text
    assert found.metadata["sites"]["missing"] == 1


def test_take__of_chosen_sites_leaves_the_others_out(network: NetworkStore) -> None:
    for site in ("a", "b"):
        network.census(site, 2, [{}])
    campus = network.network(2, ["a"], name="campus")
    assert of_all(campus, "all")["addresses"]["found"] == 1
    assert campus.uri.endswith("network/capture_date=2026-01-02/name=campus")
    assert [key["name"] for key in network.store.partitions("network")] == ["campus"]


def test_take__a_repeated_step_writes_the_same(network: NetworkStore) -> None:
    for day in (1, 2, 3):
        network.census("a", day, [{}] * day, {"g1": A})
        network.census("b", day, [{}], {"g2": A, "g3": C})
    first = _content(network.network(3))
    assert _content(network.network(3)) == first


def test_take__sums_only_dates_whose_censuses_have_changed(network: NetworkStore, summed: list[str]) -> None:
    for day in (1, 2, 3):
        network.census("a", day, [{}])
    network.network(3)
    assert summed == ["2026-01-01", "2026-01-02", "2026-01-03"], "the first step sums all dates of the window"
    summed.clear()
    network.census("a", 4, [{}])
    network.network(4)
    assert summed == ["2026-01-04"]
    summed.clear()
    network.census("b", 2, [{}, {}])
    network.network(4)
    assert summed == ["2026-01-02", "2026-01-04"], "a late site: its date is summed again"
    second = network.stored(2)
    assert of_all(second, "all")["addresses"]["found"] == 3
    summed.clear()
    network.census("a", 3, [{}, {}])
    network.network(4)
    assert summed == ["2026-01-03", "2026-01-04"], "a census that was taken again"
    summed.clear()
    shutil.rmtree(Path(network.store.root, "census", "site=b"))
    network.network(4)
    assert summed == ["2026-01-02", "2026-01-04"], "a census that is gone"


def test_take__fifty_nights_with_events_lost_and_doubled_and_late_sites(
    network: NetworkStore, summed: list[str]
) -> None:
    """Each night's run is asked for none, one or two times; every fifth night a site's census comes a night later."""
    random, late = Random(1), None
    for day in range(1, 51):
        network.census("a", day, [{}] * 2)
        if late:
            network.census("b", late, [{}])
        late = day if day % 5 == 0 else None
        if not late:
            network.census("b", day, [{}])
        for _ in range(random.choice((0, 1, 1, 2)) if day < 50 else 1):
            network.network(day, ["a", "b"], days=90)
    network.census("b", 50, [{}])
    network.network(50, ["a", "b"], days=90)
    stored = [network.stored(day) for day in range(1, 51)]
    assert [each.metadata["addresses"] for each in stored] == [3] * 50
    assert all(each.metadata["sites"] == {"complete": 2, "partial": 0, "missing": 0} for each in stored)
    assert len(network.store.partitions("network")) == 50
    page = (Path(stored[-1].uri) / "_network.html").read_text(encoding="utf-8")
    assert "50 dates" in page
    before = len(summed)
    network.network(50, ["a", "b"], days=90)
    assert summed[before:] == [stored[-1].key.capture_date], "no night is summed again, but the one asked for"


def test_take__a_census_that_was_only_written_anew_is_not_summed_again(
    network: NetworkStore, summed: list[str]
) -> None:
    for day in (1, 2):
        network.census("a", day, [{}])
    network.network(2)
    marker = Path(network.store.root, "census", "site=a", "capture_date=2026-01-01", "_SUCCESS")
    os.utime(marker, (1, 1))
    summed.clear()
    network.network(2)
    assert summed == ["2026-01-02"]


def test_take__a_site_that_is_new_is_not_missing_before(network: NetworkStore, summed: list[str]) -> None:
    for day in (1, 2, 3):
        network.census("a", day, [{}])
    network.network(2, ["a"])
    summed.clear()
    network.census("b", 4, [{}])
    assert network.network(4, ["a", "b", "c"]).metadata["sites"]["missing"] == 2
    assert summed == ["2026-01-03", "2026-01-04"]
    assert [list(_states(network.stored(day))) for day in (2, 3, 4)] == [["a"], ["a"], ["a", "b", "c"]]


def test_take__dates_before_the_window_are_not_touched(network: NetworkStore, summed: list[str]) -> None:
    network.census("a", 1, [{}])
    network.census("a", 9, [{}])
    network.network(9, days=5)
    assert summed == ["2026-01-09"]


def test_take__a_late_group_keeps_its_name_and_is_first_seen_earlier(network: NetworkStore) -> None:
    network.census("a", 1, [{}])
    network.census("a", 2, [{}], {"g1": A})
    assert read(network.network(2), "_groups.pq")[0]["first_date"].day == 2
    network.census("b", 1, [{}], {"g7": A})
    (group,) = read(network.network(2), "_groups.pq")
    assert (group["group_name"], group["first_date"].day, group["first_site"]) == ("g1", 1, "b")


def test_take__a_damaged_census_is_missing_with_the_fault_and_heals(network: NetworkStore) -> None:
    network.census("a", 2, [{}])
    network.census("b", 2, [{}])
    Path(network.store.root, "census", "site=b", "capture_date=2026-01-02", "_totals.pq").write_bytes(b"x")
    state, reason = _states(network.network(2))["b"]
    assert state == "missing"
    assert "_totals.pq" in reason
    assert "take-census" in reason
    network.census("b", 2, [{}])
    network.census("a", 3, [{}])
    network.network(3)
    assert _states(network.stored(2))["b"][0] == "complete"


def test_take__groups_of_another_key_are_not_joined_and_the_step_says_so(
    network: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iotid.cli.output import format_network

    monkeypatch.setenv(KEY_VARIABLE, KEY)
    own, other = Pseudonyms(KEY.encode()), Pseudonyms(b"another key of this test")
    for site, pseudonyms in (("a", own), ("b", own), ("c", other), ("d", None)):
        network.census(site, 2, [{}], {f"g{site}": A}, pseudonyms=pseudonyms)
    network.settings = network.settings.model_copy(
        update={"census": network.settings.census.model_copy(update={"pseudonyms": "opaque"})}
    )
    found = network.network(2)
    assert {item: row["found"] for item, row in of_all(found, "group").items()} == {"ga": 2}
    assert {row["site"] for row in read(found, "_members.pq")} == {"a", "b"}
    assert found.metadata["not_joined"] == 2
    hint = next(iter(format_network(found)))
    assert "groups of 2 sites are not joined" in hint
    assert read(found, "_groups.pq")[0]["flows_per_hour"] is None, "a clear census has the same number"
    content = _content(found)
    assert "_profiles.pq" not in content
    assert b"PAR1" not in content["_profiles.sealed"]
    assert "Unknown groups of 2 sites are not joined" in content["_network.html"].decode()
    network.census("a", 3, [{}], {"gz": A}, pseudonyms=own)
    assert {row["item"] for row in read(network.network(3)) if row["level"] == "group"} == {"ga"}


def test_read__a_task_gives_the_driver_no_row_of_an_address(network: NetworkStore) -> None:
    sizes = []
    for number in (10, 1000):
        network.census("a", 2, [{}] * number)
        census = network_read.read_site(network.store, "a", "2026-01-02")
        sizes.append(sum(len(each) for each in (census.totals, census.groups, census.counts)))
    assert sizes[0] == sizes[1]


@pytest.mark.spark
def test_take__on_spark_gives_the_same_rows(network: NetworkStore, network_on_spark: NetworkStore) -> None:
    for store in (network, network_on_spark):
        for site in ("a", "b", "c"):
            store.census(site, 2, [{}] * len(site), {f"g{site}": A if site < "c" else C})
    rows, on_spark = (read(store.network(2, ["a", "b", "c", "d"])) for store in (network, network_on_spark))
    assert rows == on_spark
    table = pq.read_table(f"{network.store.root}/network/capture_date=2026-01-02/name=all/_groups.pq")
    assert table.num_rows == 2


def test_take__continues_the_groups_of_a_network_of_version_1(network: NetworkStore) -> None:
    for day in (1, 2):
        network.census("a", day, groups={"g1": A})
    found = network.network(1)
    for name in ("_groups", "_members", "_profiles", "_sites"):
        table = pq.read_table(f"{found.uri}/{name}.pq", partitioning=None)
        names = ["group" if each == "group_name" else each for each in table.column_names]
        pq.write_table(table.rename_columns(names), f"{found.uri}/{name}.parquet")
        Path(f"{found.uri}/{name}.pq").unlink()
    (group,) = read(network.network(2), "_groups.pq")
    assert (group["group_name"], group["first_date"].day) == ("g1", 1)
