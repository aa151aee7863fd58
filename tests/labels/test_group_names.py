"""What persons say about groups: stored for good, one partition each, and the last one is in force."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iotid.errors import DataError, LabelError
from iotid.labels.group_names import GroupNames, Statement, read_members
from iotid.labels.grouped_devices import CensusesRead, state
from iotid.partitions import PartitionKey, Store
from iotid.schemas import GROUP_NAMES

G, H = "g0123456789", "gabcdefabcd"
MAC, OTHER, LOCAL = "50:c7:bf:00:00:01", "50:c7:bf:00:00:02", "02:00:00:00:00:03"


@pytest.fixture
def store(tmp_path: Any, write_grouped_census: Callable, grouped_row: Callable) -> Store:
    """G at two sites and on two dates, H at one; one device that is gone, and one without a group."""
    made = Store(str(tmp_path))
    write_grouped_census(made, "a", 1, grouped_row(MAC, G), grouped_row(LOCAL, G), grouped_row("10.0.0.9", None))
    write_grouped_census(made, "a", 2, grouped_row(MAC, G), grouped_row(LOCAL, G, flows=0, change="gone"))
    write_grouped_census(made, "b", 1, grouped_row(OTHER, G), grouped_row("10.0.0.7", H), grouped_row(MAC, "others"))
    return made


def _name(store: Store, group: str = G, **more: Any) -> Any:
    return state(store, Statement(group, "name", more.pop("by", "anna"), **({"model": "Cam 2"} | more)))


def test_state__keeps_who_what_when_and_every_device_of_every_date(store: Store) -> None:
    made = _name(store, vendor="Acme", type="camera")
    assert (made.is_new, made.devices, made.sites, made.censuses) == (True, 3, 2, 3)
    (key,) = store.partitions("group_names")
    rows = pq.read_table(store.open("group_names", key).uri, partitioning=None)
    assert rows.schema.equals(GROUP_NAMES.arrow_schema(stored=True))
    said = {
        (each["group_name"], each["action"], each["model"], each["vendor"], each["type"], each["stated_by"])
        for each in rows.to_pylist()
    }
    assert said == {(G, "name", "Cam 2", "Acme", "camera", "anna")}
    assert sorted((each["site"], each["capture_date"].day, each["device_id"]) for each in rows.to_pylist()) == [
        ("a", 1, LOCAL), ("a", 1, MAC), ("a", 2, MAC), ("b", 1, OTHER),
    ]  # fmt: skip
    (statement,) = GroupNames.read(store).statements
    assert statement == made.statement
    assert statement.title == "Cam 2 (Acme, camera)"
    assert len(read_members(store, statement)) == 4


def test_state__the_same_again_changes_nothing_until_there_are_more_devices(
    store: Store, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    first = _name(store)
    again = _name(store, by="ben")
    assert not again.is_new
    assert again.statement == first.statement
    assert len(store.partitions("group_names")) == 1
    write_grouped_census(store, "b", 2, grouped_row("50:c7:bf:00:00:08", G))
    assert _name(store, by="ben").is_new
    assert GroupNames.read(store).in_force("b", "2026-01-02")[G].stated_by == "ben"


def test_state__a_later_statement_replaces_the_earlier_one_which_stays_stored(store: Store) -> None:
    for action, by in (("name", "anna"), ("reject", "ben"), ("split", "anna")):
        state(store, Statement(G, action, by, model="Cam 2" if action == "name" else ""))
        assert GroupNames.read(store).in_force("a", "2026-01-01")[G].action == action
    names = GroupNames.read(store)
    assert names.named("a", "2026-01-01") == {}
    assert names.split("a", "2026-01-01") == {G}
    assert [each.action for each in names.statements] == ["name", "reject", "split"]
    _name(store)
    assert names.named("a", "2026-01-01") == {}, "as read"
    assert GroupNames.read(store).named("c", "2027-05-05")[G].model == "Cam 2", "at a site and date to come, too"


def test_state__sites_and_dates_restrict_what_is_said(store: Store) -> None:
    assert _name(store, sites=("b",)).devices == 1
    _name(store, model="Cam 3", dates=("2026-01-02",))
    names = GroupNames.read(store)
    assert G not in names.named("a", "2026-01-01")
    assert names.named("b", "2026-01-01")[G].model == "Cam 2"
    assert names.named("a", "2026-01-02")[G].model == names.named("b", "2026-01-02")[G].model == "Cam 3"
    assert _name(store, sites=("b",)).is_new, "as the one of the second date is the last for it"


def test_state__texts_have_the_form_of_device_lists(store: Store) -> None:
    made = _name(store, model="  Ku\u0308che ", by=" anna ").statement
    assert (made.model, made.stated_by) == ("K\u00fcche", "anna")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": " "}, "--model: must not be empty"),
        ({"model": "a\udc80"}, "--model: 'a.udc80' is not UTF-8 text"),
        ({"by": ""}, "--by: must not be empty"),
        ({"model": "…"}, "--model: … is a placeholder; give the model"),
        ({"vendor": "…"}, "--vendor: … is a placeholder; give the vendor"),
        ({"model": "unknown"}, "'unknown' is the label of devices on no list"),
    ]
    for more, why in cases:
        with pytest.raises(LabelError, match=why):
            _name(store, **more)
    with pytest.raises(LabelError, match="--reject: gives no name, so leave out --model"):
        state(store, Statement(G, "reject", "anna", vendor="Acme"))


def test_state__an_unknown_group_is_one_line_with_the_nearest(store: Store) -> None:
    cases = {
        "g0123456788": r"is no group of 3 censuses in \S+; did you mean g0123456789?",
        "nothing": r"is no group of 3 censuses in \S+; they have 2 groups; iotid name --list shows all",
        "others": "is no group but the devices beyond the most groups",
    }
    for group, why in cases.items():
        with pytest.raises(LabelError, match=why):
            _name(store, group)
    with pytest.raises(LabelError, match="is no group of 1 census chosen in "):
        _name(store, H, sites=("a",), dates=("2026-01-01",))


def test_state__a_statement_can_be_withdrawn_after_its_censuses_are_gone(store: Store, tmp_path: Any) -> None:
    _name(store)
    for key in store.partitions("census"):
        (tmp_path / "census" / key.folder / "_SUCCESS").unlink()
    assert state(store, Statement(G, "reject", "ben")).devices == 3
    assert GroupNames.read(store).named("a", "2026-01-01") == {}


def test_state__two_persons_at_the_same_time_lose_nothing(store: Store) -> None:
    start = threading.Barrier(4)

    def say(by: str) -> None:
        start.wait()
        _name(store, by=by, model=by)

    threads = [threading.Thread(target=say, args=(by,)) for by in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.stated_by for each in GroupNames.read(store).statements) == list("abcd")


def test_members__without_absent_devices_and_of_censuses_with_groups(store: Store) -> None:
    with store.write("census", PartitionKey.of_date("old", "2026-01-01"), 2):
        pass
    found = CensusesRead(store).members([G])
    assert sorted(set(found["site"].to_pylist())) == ["a", "b"]
    assert len(found) == 4
    assert CensusesRead(store, ("b",)).members()["group_name"].to_pylist().count("others") == 1


def test_read__a_damaged_statement_is_one_line(store: Store) -> None:
    _name(store)
    (key,) = store.partitions("group_names")
    uri = store.open("group_names", key).uri
    Path(uri, "part-0.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="is not as iotid wrote it"):
        read_members(store, GroupNames.read(store).statements[0])
    with store.write("group_names", PartitionKey.named("x")) as staged:
        texts = dict.fromkeys(("group", "model", "vendor", "type", "stated_by"), "x")
        staged.metadata |= {**texts, "action": "name", "stated_at": "yesterday", "sites": [], "dates": []}
    with pytest.raises(DataError, match=r"yesterday.*; delete this statement, and make it again"):
        GroupNames.read(store)
