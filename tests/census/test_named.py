"""Groups that persons named, in the census: status, kinds, watch list, changes, files; without Spark."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.census.named import NAMED_CONFIDENCE, with_names
from iotid.census.pseudonyms import KEY_VARIABLE
from iotid.labels.group_names import Statement
from iotid.labels.grouped_devices import state
from iotid.partitions import Partition
from iotid.schemas import CENSUS

from .plain_site import KEY, WATCHED, A, B, C, Site, changes_of

G, H = "g0123456789", "gabcdefabcd"


def _rows(census: Partition) -> dict[str, dict[str, Any]]:
    return {row["device_id"]: row for row in pq.read_table(census.uri, partitioning=None).to_pylist()}


def _say(site: Site, group: str, model: str = "", action: str = "name", **more: Any) -> None:
    state(site.store, Statement(group, action, "anna", model=model, **more))


def _named(site: Site) -> Partition:
    """A census of two devices in G, one in H, and one known; then G is named, and the census taken again."""
    site.flows(1, a=f"?{G}", b=f"?{G}", c=f"?{H}", d="camera")
    site.census(1)
    _say(site, G, "Cam 2", vendor="Acme", type="camera")
    return site.census(1)


def test_named__devices_of_a_named_group_are_of_one_kind_said_by_a_person(plain_site: Site) -> None:
    census = _named(plain_site)
    rows = _rows(census)
    row = rows[A]
    assert (row["status"], row["label"], row["vendor"], row["type"]) == ("named", "Cam 2", "Acme", "camera")
    assert (row["confidence"], row["named_by"], row["group_name"]) == (NAMED_CONFIDENCE, "anna", G)
    assert row["kinds"] == [
        {"kind": "Acme camera", "label": "Cam 2", "vendor": "Acme", "type": "camera", "confidence": NAMED_CONFIDENCE,
         "flows": 0, "units": 1}
    ]  # fmt: skip
    assert "several kinds. A person named its group: Cam 2 (Acme, camera), by anna, 20" in row["reason"]
    assert (rows[C]["status"], rows[C]["label"], rows[C]["named_by"]) == ("unknown", None, None)
    metadata = census.metadata
    assert (metadata["status"]["named"], metadata["status"]["unknown"], metadata["status"]["known"]) == (2, 1, 1)
    assert metadata["labels"] == {"Cam 2": 2, "camera": 1}
    assert metadata["groups"] == 2
    assert pq.read_table(f"{census.uri}/_groups.pq", partitioning=None)["group_name"].to_pylist() == [G, H]
    lines = csv.DictReader(io.StringIO(Path(census.uri, "_census.csv").read_text()))
    (line,) = [each for each in lines if each["device_id"] == A]
    assert (line["status"], line["label"], line["named_by"]) == ("named", "Cam 2", "anna")


def test_named__a_new_name_is_no_change_of_the_network(plain_site: Site) -> None:
    _named(plain_site)
    plain_site.flows(2, a=f"?{G}", c=f"?{H}", d="camera")
    _say(plain_site, H, "Plug")
    after = plain_site.census(2)
    assert changes_of(after)[A] == ("same", "Cam 2")
    assert changes_of(after)[C] == ("same", "Plug")
    assert changes_of(after)[B] == ("gone", "Cam 2")
    assert _rows(after)[B]["named_by"] == "anna", "as of its last date"


def test_named__a_device_that_joins_a_named_group_has_changed(plain_site: Site) -> None:
    _named(plain_site)
    plain_site.flows(2, a="camera", b=f"?{H}", c=f"?{G}", d="camera")
    after = plain_site.census(2)
    assert [changes_of(after)[device] for device in (A, B, C)] == [
        ("changed", "Cam 2"), ("changed", "Cam 2"), ("changed", None),
    ]  # fmt: skip
    assert _rows(after)[C]["new_kinds"] == ["Cam 2"]


def test_named__what_is_rejected_is_unknown_again_with_its_own_reason(plain_site: Site) -> None:
    before = _named(plain_site)
    _say(plain_site, G, action="reject")
    plain_site.flows(2, a=f"?{G}")
    after = plain_site.census(2)
    rows = _rows(after)
    assert (rows[A]["status"], rows[B]["status"]) == ("unknown", "absent")
    assert changes_of(after)[A] == ("same", None)
    assert rows[B]["kinds"] == []
    assert rows[B]["named_by"] is None
    assert rows[B]["label"] is None
    assert rows[B]["reason"] == "Of 4 distinct flows: 4 like those of several kinds."
    assert _rows(before)[B]["status"] == "named", "as it was stored"


def test_named__another_model_scores_the_earlier_flows_and_names_them(plain_site: Site) -> None:
    _named(plain_site)
    plain_site.flows(2, a=f"?{G}", b=f"?{G}")
    after = plain_site.census(2, version=2)
    assert after.metadata["compared_with"]["how"] == "scored again"
    assert changes_of(after)[A] == changes_of(after)[B] == ("same", "Cam 2")


def test_named__the_watch_list_finds_named_devices(plain_site: Site, caplog: pytest.LogCaptureFixture) -> None:
    _named(plain_site)
    for listed in ({"labels": ["Cam 2"]}, {"vendors": ["Acme"]}, {"types": ["camera"]}):
        none = {"labels": [], "vendors": [], "types": []}
        census = plain_site.census(1, watchlist=WATCHED | none | listed)
        assert census.metadata["watched_labels"]["Cam 2"] == 2
    assert not caplog.messages, "no name that is nowhere"
    census = plain_site.census(1, watchlist=WATCHED | {"labels": [{"name": "Cam 2", "from": 0.99}]})
    assert "Cam 2" not in census.metadata["watched_labels"]


def test_named__sites_and_dates_restrict_a_name(plain_site: Site) -> None:
    plain_site.flows(1, a=f"?{G}")
    plain_site.flows(2, a=f"?{G}")
    plain_site.census(1)
    _say(plain_site, G, "Cam 2", dates=("2026-01-01",))
    assert plain_site.census(1).metadata["status"]["named"] == 1
    assert plain_site.census(2).metadata["status"]["named"] == 0


def test_named__the_group_of_a_split_is_given_to_the_scoring(plain_site: Site) -> None:
    _named(plain_site)
    _say(plain_site, G, action="split")
    census = plain_site.census(1)
    assert plain_site.split == [set(), set(), {G}]
    assert census.metadata["status"]["named"] == 0


def test_named__with_pseudonyms_by_the_name_that_the_census_shows(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    plain_site.flows(1, a=f"?{G}", b=f"?{G}")
    (shown,) = {row["group_name"] for row in _rows(plain_site.census(1, pseudonyms="opaque")).values()}
    assert shown != G
    _say(plain_site, shown, "Cam 2")
    census = plain_site.census(1, pseudonyms="opaque")
    assert {row["named_by"] for row in _rows(census).values()} == {"anna"}
    plain_site.flows(2, a=f"?{shown}")
    assert plain_site.census(2, pseudonyms="opaque").metadata["status"]["named"] == 1


def test_with_names__is_the_same_twice_and_leaves_others_as_they_are(plain_site: Site) -> None:
    census = _named(plain_site)
    rows = pq.read_table(census.uri, partitioning=None)
    said = Statement(G, "name", "ben", model="Lamp")
    once = with_names(rows, {G: said})
    assert with_names(once, {G: said}).equals(once)
    assert once.schema == CENSUS.arrow_schema(stored=True)
    is_named = pa.array([row["status"] == "named" for row in rows.to_pylist()])
    assert once.filter(is_named)["label"].to_pylist() == ["Lamp"] * 2
    others = pa.array([not each for each in is_named.to_pylist()])
    assert once.filter(others).equals(rows.filter(others))
    empty = rows.slice(0, 0)
    assert with_names(empty, {G: said}).equals(empty)
    nameless = with_names(rows, {})
    assert set(nameless["status"].to_pylist()) == {"unknown", "known"}
    assert with_names(nameless, {G: said}).equals(once)
