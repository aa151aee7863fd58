"""The census with pseudonyms, without Spark, scored by a table of labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid.census import take
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.census.scored import Scored
from iotid.census.stored import stored_rows
from iotid.errors import SettingError
from iotid.labels.group_names import Statement
from iotid.labels.grouped_devices import state
from iotid.partitions import Partition
from iotid.schemas import GROUPS

from .plain_site import KEY, WATCHED, A, B, D, Site, changes_of


def test_take_plain__with_pseudonyms_flows_left_out_show_no_mac_or_address(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    plain_site.flows(1, a="camera")
    for mode in ("opaque", "prefixes"):
        census = plain_site.census(1, pseudonyms=mode)
        for path in Path(census.uri).iterdir():
            for secret in (D, "52.1.2.3", "192.168.1.13"):
                assert secret.encode() not in path.read_bytes(), path
        rows = pq.read_table(f"{census.uri}/_left_out.pq", partitioning=None).to_pylist()
        name = Pseudonyms(KEY.encode(), keep_prefixes=mode == "prefixes").of(pa.array([D])).to_pylist()[0]
        assert [(row["reason"], row["mac"]) for row in rows] == [("outside", None), ("other_protocol", name)]


def test_take_plain__pseudonyms_are_joined_under_the_same_key_alone(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_site.flows(1, a="camera")
    plain_site.flows(2, a="camera")
    with monkeypatch.context() as with_key:
        with_key.setenv(KEY_VARIABLE, KEY)
        plain_site.census(1, pseudonyms="opaque")
        joined = plain_site.census(2, pseudonyms="opaque")
    name = Pseudonyms(KEY.encode()).of(pa.array([A])).to_pylist()[0]
    assert changes_of(joined) == {name: ("same", "camera")}
    clear = plain_site.census(2)
    assert clear.metadata["compared_with"]["how"] == "not joinable"
    assert changes_of(clear) == {A: ("baseline", None)}
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match="there is no key"):
        plain_site.census(2, pseudonyms="opaque")


def test_take_plain__pseudonyms_have_no_history_and_the_page_no_place(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for day, label in ((1, "plug"), (2, "camera")):
        plain_site.flows(day, a=label)
        census = plain_site.census(day, pseudonyms="opaque")
    (row,) = stored_rows(census).to_pylist()
    assert row["change"] == "changed"
    assert {row[name] for name in ("first_seen_ever", "dates_present", "earlier_names")} == {None}
    assert plain_site.store.root not in (Path(census.uri) / "_census.html").read_text(encoding="utf-8")
    clear = plain_site.census(2)
    assert plain_site.store.root in (Path(clear.uri) / "_census.html").read_text(encoding="utf-8")


UNKNOWN_GROUPS = pa.Table.from_pylist(
    [{"group_name": "gclear", "services": ["TCP 8883"], "protocol": [6], "payload_length": [777], "share": [1.0]}],
    schema=GROUPS.arrow_schema(),
)


@pytest.fixture
def grouped(plain_site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose unknown devices are of one group: of the first that the earlier census had, else of a new one."""

    def score(*given: Any) -> Scored:
        scored, groups = plain_site._score(*given), given[-1].groups if len(given[-1].groups) else UNKNOWN_GROUPS
        named = pc.if_else(
            pc.equal(scored.devices["status"], "unknown"), groups["group_name"][0], scored.devices["group_name"]
        )
        index = scored.devices.column_names.index("group_name")
        return replace(scored, devices=scored.devices.set_column(index, "group_name", named), groups=groups)

    monkeypatch.setattr(take, "score_partition", score)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    plain_site.flows(1, a="camera", b=None, c=None)
    plain_site.flows(2, a="camera", b=None, d=None)
    return plain_site


def _files(census: Partition) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(census.uri).iterdir()}


@pytest.mark.parametrize("mode", ["opaque", "prefixes"])
def test_take_plain__pseudonymised_columns_do_not_join_a_clear_census(grouped: Site, mode: str) -> None:
    clear = grouped.census(1)
    files = {"clear": _files(clear)}
    rows = {"clear": pq.read_table(clear.uri, partitioning=None).to_pylist()}
    hidden = grouped.census(1, pseudonyms=mode)
    files["hidden"], rows["hidden"] = _files(hidden), pq.read_table(hidden.uri, partitioning=None).to_pylist()
    for name in ("device_id", "group_name", "reason", "flows", "bytes", "first_seen", "last_seen", "confidence"):
        values = {table: {row[name] for row in listed} - {None} for table, listed in rows.items()}
        assert not values["clear"] & values["hidden"], name
    left_out = [pq.read_table(pa.BufferReader(kept["_left_out.pq"])) for kept in files.values()]
    for name in ("mac", "address", "flows", "packets"):
        assert not {*left_out[0][name].to_pylist()} & {*left_out[1][name].to_pylist()} - {None}, name
    assert {row["addresses"] == [] for row in rows["hidden"]} == {mode == "opaque"}
    assert files["hidden"].keys() ^ files["clear"].keys() == {"_groups.pq", "_groups.sealed"}
    for name, content in files["hidden"].items():
        assert b"gclear" not in content, name
        assert b"PAR1" not in content or name in ("part-0.parquet", "_left_out.pq", "_totals.pq")
        assert clear.metadata["settings_hash"].encode() not in content, "it reveals the networks to anyone who guesses"


def test_take_plain__groups_keep_their_keyed_names(grouped: Site) -> None:
    def names(day: int, **more: Any) -> set[str]:
        census = grouped.census(day, **{"pseudonyms": "opaque", **more})
        return {row["group_name"] for row in pq.read_table(census.uri, partitioning=None).to_pylist()} - {None}

    (first,) = names(1)
    assert first == f"g{Pseudonyms(KEY.encode()).digest('gclear')[:10]}"
    assert names(2) == {first}
    assert names(2, version=2) == {first}, "also where the earlier census is scored again"
    assert names(2, pseudonyms="off") == {"gclear"}


def test_take_plain__an_earlier_version_with_pseudonyms_has_no_groups(
    grouped: Site,
) -> None:
    before = grouped.census(1, pseudonyms="prefixes")
    (Path(before.uri) / "_groups.sealed").rename(Path(before.uri) / "_groups.pq")
    after = grouped.census(2, pseudonyms="prefixes")
    assert after.metadata["compared_with"]["how"] == "as it was"
    assert set(pq.read_table(after.uri, partitioning=None)["change"].to_pylist()) == {"same", "gone", "new"}


def test_take_plain__pseudonyms_with_prefixes_and_without_are_not_joined(grouped: Site) -> None:
    grouped.census(1, pseudonyms="prefixes")
    assert grouped.census(2, pseudonyms="opaque").metadata["compared_with"]["how"] == "not joinable"
    assert grouped.census(2, pseudonyms="prefixes").metadata["compared_with"]["how"] == "as it was"


def test_take_plain__the_watch_list_uses_exact_probabilities(grouped: Site) -> None:
    exact = WATCHED | {"labels": [{"name": "camera", "from": 0.92, "to": 0.94}], "vendors": []}
    assert grouped.census(1, watchlist=exact, pseudonyms="opaque").metadata["watched"] == 1


@pytest.mark.parametrize("mode", ["off", "opaque"])
def test_take_plain__a_watched_address_of_a_named_group_stays_watched(grouped: Site, mode: str) -> None:
    def watched_rows() -> list[tuple[str, bool]]:
        census = grouped.census(1, watchlist=WATCHED | {"labels": [], "devices": [B.upper()]}, pseudonyms=mode)
        rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None).to_pylist()
        return sorted((row["status"], row["watched"]) for row in rows)

    assert watched_rows() == [("known", False), ("unknown", False), ("unknown", True)]
    stored = pq.read_table(f"{grouped.census(1, pseudonyms=mode).uri}/part-0.parquet", partitioning=None)
    (group,) = set(stored["group_name"].to_pylist()) - {None}
    state(grouped.store, Statement(group, "name", "anna", model="Odd 1", vendor="Acme", type="oddity"))
    assert watched_rows() == [("known", False), ("named", False), ("named", True)]


def test_take_plain__watched_devices_without_a_name_are_counted(grouped: Site) -> None:
    census = grouped.census(1, watchlist=WATCHED | {"labels": [], "vendors": [], "devices": [B]})
    assert (census.metadata["watched"], census.metadata["watched_labels"]) == (1, {"unknown": 1})
