"""The census without Spark, scored by a table of labels: counts, comparison, watch list, champion."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from iotid.census import champion_of, check_watchlist, find_champion
from iotid.census.stored import PAGE, stored_rows
from iotid.config import Watchlist
from iotid.errors import AbsentError, AccountingError, DataError, NoModelError, ServerError, WatchError
from iotid.partitions import Partition, PartitionKey
from iotid.tracking import ModelVersion

from .plain_site import KEY, LEFT_OUT_ROWS, WATCHED, A, B, C, D, Site, changes_of


def test_take_plain__counts_what_is_there_and_lists_what_is_gone(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="plug", c=None)
    plain_site.flows(2, a="camera", b="camera", d="undecided")
    first, second = plain_site.census(1), plain_site.census(2)
    assert changes_of(first) == dict.fromkeys((A, B, C), ("baseline", None))
    assert changes_of(second) == {
        A: ("same", "camera"), B: ("changed", "plug"), C: ("gone", None), D: ("new", None),
    }  # fmt: skip
    metadata = second.metadata
    assert (metadata["rows"], metadata["devices"], metadata["flows"], metadata["flows_of_devices"]) == (4, 3, 17, 12)
    assert (metadata["flows_of_other_protocols"], metadata["flows_without_device"]) == (2, {"outside": 3})
    assert metadata["status"] == {
        "known": 2, "several": 0, "several_with_unknown": 0, "undecided": 1, "unknown": 0, "named": 0,
    }  # fmt: skip
    assert metadata["labels"] == {"camera": 2}
    assert (metadata["watched"], metadata["watched_labels"]) == (2, {"camera": 2})
    assert {name: count for name, count in metadata["changes"].items() if count} == {
        "same": 1, "changed": 1, "gone": 1, "new": 1,
    }  # fmt: skip
    assert metadata["compared_with"] == {"capture_date": "2026-01-01", "how": "as it was"}
    assert first.metadata["compared_with"] is None
    assert {"_census.html", "_census.csv", "_groups.csv", "_groups.pq", "part-0.parquet"} <= {
        path.name for path in Path(second.uri).iterdir()
    }
    assert first.metadata["watched_labels"] == {"camera": 1, "plug": 1}, "the plug by its vendor"


def test_take_plain__flows_left_out_are_in_files_and_on_the_page(plain_site: Site) -> None:
    plain_site.flows(1, a="camera")
    census = plain_site.census(1)
    files = {name: Path(census.uri, name).read_text() for name in ("_left_out.csv", "_census.html")}
    assert pq.read_table(f"{census.uri}/_left_out.pq", partitioning=None).equals(LEFT_OUT_ROWS)
    assert files["_left_out.csv"].splitlines() == [
        '"reason","mac","address","addresses","in_census","ends","flows","packets"',
        '"outside",,"52.1.2.3",1,false,1,3,6',
        f'"other_protocol","{D}","192.168.1.13",1,false,1,2,4',
    ]
    assert "Skipped flows, by reason and MAC or address" in files["_census.html"]
    for text in ("52.1.2.3", D, "3 flows, 6 packets"):
        assert text in files["_census.html"]


def test_take_plain__compares_with_the_latest_earlier_census_of_the_site(plain_site: Site) -> None:
    for day in (1, 3, 5):
        plain_site.flows(day, a="camera")
    plain_site.census(1)
    plain_site.census(5)
    assert plain_site.census(3).metadata["compared_with"]["capture_date"] == "2026-01-01"
    with plain_site.store.write("census", PartitionKey.of_date("other", "2026-01-02")):
        pass
    assert plain_site.census(3).metadata["compared_with"]["capture_date"] == "2026-01-01"


def test_take_plain__p_values_are_an_input_but_do_not_change_what_is_compared(plain_site: Site) -> None:
    plain_site.flows(1, a="camera")
    off, on = (plain_site.census(1, unlike_kind=each).metadata for each in (False, True))
    assert off["inputs"] != on["inputs"]
    assert off["settings_hash"] == on["settings_hash"]
    plain_site.flows(2, a="camera")
    assert plain_site.census(2).metadata["compared_with"]["how"] == "as it was"


def test_take_plain__another_model_scores_the_earlier_flows_again(
    plain_site: Site,
) -> None:
    plain_site.flows(1, a="camera", b="plug", c="plug")
    plain_site.flows(2, a="camera", b="plug")
    plain_site.flows(3, a="camera", b="camera")
    plain_site.census(1)
    plain_site.census(2)
    again = plain_site.census(3, version=2)
    assert again.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    assert changes_of(again) == {A: ("same", "webcam"), B: ("changed", "plug"), C: ("away", "plug")}
    history = {
        row["device_id"]: (row["first_seen_ever"].day, row["dates_present"], row["earlier_names"])
        for row in stored_rows(again).to_pylist()
    }
    assert history == {A: (1, 3, []), B: (1, 3, ["plug"]), C: (1, 1, [])}, "another model does not end it"
    other_settings = plain_site.census(3, min_flows=5)
    assert other_settings.metadata["compared_with"]["how"] == "scored again"
    plain_site.flows(2, flow={"misfit": "was cut otherwise"}, a="camera", b="plug")
    blind = plain_site.census(3, version=2)
    assert blind.metadata["compared_with"]["how"] == "labels not compared"
    assert changes_of(blind)[B] == ("same", "plug")


def test_take_plain__lost_absent_or_unreadable_flows_are_errors(plain_site: Site) -> None:
    plain_site.flows(1, a="camera")
    plain_site.lost = 1
    message = "has 9 flows by its metadata, but 3 were scored and left out are 3 outside, 2 other_protocol, together 8"
    with pytest.raises(
        AccountingError,
        match=message,
    ):
        plain_site.census(1)
    with pytest.raises(AbsentError, match="run iotid assemble-flows first"):
        plain_site.census(2)
    plain_site.flows(1, flow={"misfit": "was cut otherwise"}, a="camera")
    with pytest.raises(DataError, match="was cut otherwise; assemble these flows"):
        plain_site.census(1)
    assert not plain_site.store.exists("census", PartitionKey.of_date("lab", "2026-01-01"))


def test_take_plain__warns_of_a_watched_name_that_the_model_lacks(
    plain_site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    plain_site.flows(1, a="camera")
    plain_site.census(1, watchlist=WATCHED | {"labels": ["camera", "camra"], "types": ["plug"]})
    assert caplog.messages == ["watchlist.labels: 'camra' is not among those of the model; did you mean camera?"]


def test_check_watchlist__raises_only_with_watchlist_fail_and_a_watched_device(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="camera")
    plain_site.flows(2, c="lamp")
    first, second = plain_site.census(1), plain_site.census(2)
    failing = Watchlist.model_validate(WATCHED | {"fail": True})
    with pytest.raises(WatchError, match=r"lab, 2026-01-01, is written; watched devices: 2 \(2 camera\)"):
        check_watchlist(first, failing)
    check_watchlist(second, failing)
    check_watchlist(first, Watchlist.model_validate(WATCHED))


def _registry(**tags: Any) -> Any:
    """A registry without a champion; ``tags``: tags of its challenger, version 3, if there is one."""

    def version_of(alias: str) -> int:
        raise NoModelError("no version is champion; run iotid promote first")

    challenger = ModelVersion(3, "run", "2026-01-31", tags) if tags else None
    return SimpleNamespace(version_of=version_of, find_version=lambda alias: challenger)


def test_champion_of__reports_why_promotion_refused() -> None:
    refused = "Refused: macro F1 0.1 is below the floor of 0.3 (promotion.min_macro_f1)."
    decision = f"Passed: there is no champion. {refused} Passed: it reads the same flows. Refused: that, too."
    with pytest.raises(NoModelError) as caught:
        champion_of(_registry(decision=decision, decided_on="home"))
    message = str(caught.value)
    assert f"promotion refused version 3. {refused} Refused: that, too. Learn from more captures" in message
    assert "iotid promote --dataset home" in message
    assert "Passed" not in message
    assert caught.value.exit_code == 4
    for registry in (_registry(), _registry(dataset="home"), _registry(decision="Passed: all is well.")):
        with pytest.raises(NoModelError, match="run iotid promote first"):
            champion_of(registry)
    assert champion_of(SimpleNamespace(version_of=lambda alias: 5)) == 5


def test_find_champion__says_why_there_is_none_and_raises_for_an_unreachable_one() -> None:
    assert find_champion(SimpleNamespace(version_of=lambda alias: 5)) == (5, "")
    none, why = find_champion(_registry(decision="Refused: macro F1 is low.", decided_on="home"))
    assert none is None
    assert "promotion refused version 3. Refused: macro F1 is low." in why

    def away(alias: str) -> int:
        raise ServerError("does not answer")

    with pytest.raises(ServerError, match="does not answer"):
        find_champion(SimpleNamespace(version_of=away))


def test_take_plain__without_a_model_all_are_unknown_and_a_first_one_is_no_change(
    plain_site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    plain_site.flows(1, a="camera", b="plug", c=None)
    plain_site.flows(2, a="camera", b="plug", c=None)
    plain_site.flows(3, a="camera", b="camera", d="plug")
    first, second = plain_site.census(1, version=None), plain_site.census(2, version=None)
    assert caplog.messages == ["watchlist: there is no model, so no device is identified that could be on it"] * 2
    assert changes_of(first) == dict.fromkeys((A, B, C), ("baseline", None))
    assert changes_of(second) == dict.fromkeys((A, B, C), ("same", None))
    made = {name: second.metadata[name] for name in ("model_version", "model_date", "model_quality")}
    assert set(made.values()) == {None}
    assert second.metadata["status"]["unknown"] == second.metadata["devices"] == 3
    assert second.metadata["compared_with"] == {"capture_date": "2026-01-01", "how": "as it was"}
    page = Path(second.uri, "_census.html").read_text()
    assert "Made without a model" in page
    assert "Model version" not in page
    third = plain_site.census(3)
    assert third.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    assert changes_of(third) == {
        A: ("same", "camera"), B: ("changed", "plug"), C: ("gone", None), D: ("new", None),
    }  # fmt: skip


def test_take_plain__a_first_model_without_the_earlier_flows_compares_no_names(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="plug")
    plain_site.flows(2, a="camera", b="plug")
    plain_site.census(1, version=None)
    plain_site.flows(1, flow={"misfit": "was cut otherwise"}, a="camera", b="plug")
    blind = plain_site.census(2)
    assert blind.metadata["compared_with"]["how"] == "labels not compared"
    assert changes_of(blind) == dict.fromkeys((A, B), ("same", None))


def test_take_plain__names_the_kinds_added_to_an_address(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="plug", c=None)
    plain_site.flows(2, a="plug+camera", b="lamp", c="plug+camera")
    plain_site.census(1)
    rows = pq.read_table(f"{plain_site.census(2).uri}/part-0.parquet", partitioning=None).to_pylist()
    assert [(row["change"], row["new_kinds"]) for row in rows] == [
        ("changed", ["plug"]), ("changed", ["lamp"]), ("changed", ["plug", "camera"]),
    ]  # fmt: skip


def _same_as(census: Partition) -> dict[str, str]:
    rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None).to_pylist()
    return {row["device_id"]: row["same_as"] for row in rows if row["same_as"] is not None}


def test_take_plain__a_device_that_changed_its_mac_names_the_one_before(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotid.census.same_device.MIN_FLOWS", 4)
    for day, labels in enumerate(({"a": "plug"}, {"b": "plug"}, {"b": "plug", "c": "camera"}), 1):
        plain_site.flows(day, **labels)
    assert _same_as(plain_site.census(1)) == {}
    second = plain_site.census(2)
    assert _same_as(second) == {B: A}
    page = plain_site.store.read_bytes(second, PAGE).decode()
    assert f'the same device as <span class="id">{A}</span> before' in page
    assert _same_as(plain_site.census(3, version=2)) == {B: A}, "also if the earlier flows are scored again"


def test_take_plain__with_pseudonyms_no_device_is_joined(plain_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iotid.census.same_device.MIN_FLOWS", 1)
    monkeypatch.setenv("IOTID_CENSUS_KEY", KEY)
    plain_site.flows(1, a="plug")
    plain_site.flows(2, b="plug")
    for day in (1, 2):
        census = plain_site.census(day, pseudonyms="opaque")
        assert _same_as(census) == {}
        rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)
        assert rows["maker"].null_count == rows["mac_randomised"].null_count == len(rows)
        assert census.metadata["makers"] is None
