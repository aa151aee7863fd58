"""`iotid prune` deletes what no later step needs, and keeps what one needs, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iotid import config, partitions
from iotid.cli.prune import main as prune_command
from iotid.errors import DataError
from iotid.partitions import PartitionKey, Store
from iotid.retention import TABLES, Selection, datasets_of_models, leftovers, prune
from iotid.tracking import Registry

NIGHTS = [f"2026-01-{day:02}" for day in range(1, 11)]
OLD = "2026-01-06"  # five nights are older
WHOLE = {"_METADATA.json", "_SUCCESS", "part-0.txt", "_more.txt"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Ten nights of two sites, as the steps store them."""
    store = Store(str(tmp_path / "run"))
    for site in ("home", "lab"):
        for night in NIGHTS:
            for table in ("splits", "flows", "census"):
                _write(store, table, PartitionKey.of_date(site, night))
    return store


def _write(store: Store, table: str, key: PartitionKey, **metadata: object) -> None:
    with store.write(table, key) as staged:
        staged.write_text("part-0.txt", "x" * 1000)
        staged.write_text("_more.txt", "y" * 500)
        staged.metadata |= metadata


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _dates(store: Store, table: str, site: str = "home") -> list[str]:
    return [key.capture_date for key in store.partitions(table) if key.get("site", site) == site]


def _reasons(kept: Iterable[object]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table, key, needed in kept:  # type: ignore[misc, attr-defined]
        found.setdefault(needed, set()).add(f"{table} {key.capture_date}")
    return found


def test_prune__says_what_it_would_delete_and_deletes_nothing(store: Store) -> None:
    before = sorted(Path(store.root).rglob("*"))
    pruned = prune(store, Selection(OLD), apply=False)
    assert len(pruned.deleted) == 2 * 3 * 4
    assert all(size > 1500 for _, size in pruned.deleted)
    assert sorted(Path(store.root).rglob("*")) == before


def test_prune__keeps_the_last_old_date_which_the_next_one_needs(store: Store) -> None:
    pruned = prune(store, Selection(OLD), apply=True)
    for table in ("splits", "flows", "census"):
        for site in ("home", "lab"):
            assert _dates(store, table, site) == NIGHTS[4:]
    (reason,) = _reasons(pruned.kept)
    assert "the last before the date" in reason
    assert not prune(store, Selection(OLD), apply=True).deleted


def test_prune__a_site_without_later_nights_keeps_its_latest(store: Store) -> None:
    prune(store, Selection("2027-01-01"), apply=True)
    assert _dates(store, "census") == _dates(store, "flows") == NIGHTS[-1:]


def test_prune__only_tables_and_sites_that_are_named(store: Store) -> None:
    prune(store, Selection(OLD, ("flows",), ("lab",)), apply=True)
    assert _dates(store, "flows", "lab") == NIGHTS[4:]
    assert _dates(store, "flows", "home") == _dates(store, "census", "lab") == NIGHTS


def test_prune__keeps_the_flows_of_the_census_that_the_next_is_compared_with(store: Store) -> None:
    for night in NIGHTS[2:]:
        store.delete("census", PartitionKey.of_date("home", night))
    pruned = prune(store, Selection(OLD), apply=True)
    assert _dates(store, "flows") == [NIGHTS[1], *NIGHTS[4:]]
    assert _dates(store, "census") == [NIGHTS[1]]
    assert any("scored again with a new model" in reason for reason in _reasons(pruned.kept))


def test_prune__keeps_flows_that_a_dataset_was_made_from(store: Store) -> None:
    of = [PartitionKey.of_date("home", night) for night in NIGHTS[:2]]
    _write(store, "datasets", PartitionKey.named("week"), nights=of)
    pruned = prune(store, Selection(OLD), apply=True)
    assert _dates(store, "flows") == [*NIGHTS[:2], *NIGHTS[4:]]
    assert _reasons(pruned.kept)["dataset week was made from it"] == {
        f"{table} {night}" for table in ("splits", "flows") for night in NIGHTS[:2]
    }
    assert store.exists("datasets", PartitionKey.named("week"))


def test_prune__deletes_datasets_if_asked_and_no_model_in_use_has_them(store: Store) -> None:
    for name, nights in {"a": NIGHTS[:2], "b": NIGHTS[1:3], "new": NIGHTS[2:8]}.items():
        of = [PartitionKey.of_date("home", night) for night in nights]
        _write(store, "datasets", PartitionKey.named(name), nights=of)
    selection = Selection(OLD, ("splits", "flows", "datasets"), models=frozenset({"b"}))
    prune(store, selection, apply=True)
    assert [key["name"] for key in store.partitions("datasets")] == ["b", "new"]
    assert _dates(store, "flows") == NIGHTS[1:]


def test_prune__keeps_what_the_census_of_the_network_would_sum_again(store: Store) -> None:
    for night in NIGHTS:
        _write(store, "network", PartitionKey.of_network("all", night))
    pruned = prune(store, Selection(OLD, network_days=8), apply=True)
    assert _dates(store, "network", "all") == _dates(store, "census") == NIGHTS[2:]
    reasons = _reasons(pruned.kept)
    assert "census 2026-01-03" in reasons["network all would sum its date again, without it"]
    assert "network 2026-01-03" in reasons["on the network's page of trends"]
    prune(store, Selection(OLD, network_days=1), apply=True)
    assert _dates(store, "network", "all") == _dates(store, "census") == NIGHTS[4:]


def test_prune__keeps_a_partition_that_a_run_writes(store: Store) -> None:
    key = PartitionKey.of_date("home", NIGHTS[0])
    with store.write("flows", key) as staged:
        staged.metadata["open_flows"] = 2
        pruned = prune(store, Selection(OLD, ("flows",)), apply=True)
    assert _reasons(pruned.kept)["a run is writing it"] == {f"flows {NIGHTS[0]}"}
    assert store.open("flows", key).metadata["open_flows"] == 2


def test_prune__a_partition_is_out_of_readers_sight_before_a_file_of_it_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    remove = partitions.remove_folder

    def look(filesystem: Any, path: str) -> None:
        seen.append((path, all(_files(folder) == WHOLE for folder in Path(store.root).glob("flows/*/*"))))
        remove(filesystem, path)

    monkeypatch.setattr(partitions, "remove_folder", look)
    pruned = prune(store, Selection(OLD, ("flows",)), apply=True)
    assert len(pruned.deleted) == 8
    assert len([path for path, _ in seen if "/_trash/flows/" in path]) >= 8
    assert all(is_whole for _, is_whole in seen)


def test_prune__a_census_goes_before_its_flows_and_these_before_their_splits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(Store, "delete", lambda self, table, key: deleted.append(table))
    prune(store, Selection(OLD), apply=True)
    assert deleted == ["census"] * 8 + ["flows"] * 8 + ["splits"] * 8


def test_prune__of_sites_leaves_networks_and_datasets_of_other_sites(store: Store) -> None:
    for night in NIGHTS:
        _write(store, "network", PartitionKey.of_network("all", night))
    for site in ("home", "lab"):
        _write(store, "datasets", PartitionKey.named(site), nights=[PartitionKey.of_date(site, NIGHTS[0])])
    both = [PartitionKey.of_date(site, NIGHTS[0]) for site in ("home", "lab")]
    _write(store, "datasets", PartitionKey.named("both"), nights=both)
    prune(store, Selection(OLD, TABLES, ("lab",), network_days=1), apply=True)
    assert len(_dates(store, "network", "all")) == len(NIGHTS)
    assert [key["name"] for key in store.partitions("datasets")] == ["both", "home"]


def test_prune__a_damaged_dataset_stops_it_before_anything_goes(store: Store) -> None:
    _write(store, "datasets", PartitionKey.named("week"), nights=[PartitionKey.of_date("home", NIGHTS[0])])
    Path(store.root, "datasets", "name=week", "_METADATA.json").write_text("{")
    with pytest.raises(DataError, match="name=week"):
        prune(store, Selection(OLD), apply=True)
    assert _dates(store, "flows") == NIGHTS


def test_prune__after_a_death_the_next_run_frees_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(partitions, "remove_folder", die)
        with pytest.raises(KeyboardInterrupt):
            prune(store, Selection(OLD, ("flows",), ("home",)), apply=True)
    assert len(_dates(store, "flows")) == len(NIGHTS) - 1
    assert not prune(store, Selection(OLD), apply=False).leftovers, "another run may be about to delete it"
    monkeypatch.setattr(leftovers, "ABANDONED", timedelta(0))
    (left,) = prune(store, Selection("2020-01-01"), apply=True).leftovers
    assert left.num_bytes > 1500
    assert not [path for path in Path(store.root, "_trash").rglob("*") if path.is_file()]


def test_leftovers__only_staged_files_that_nobody_has_written_to_for_days(store: Store) -> None:
    staging = Path(store.root, "_staging", "flows", "site=home", "capture_date=2026-01-20")
    for name, marker, days in (("dead", False, 3), ("running", False, 1), ("complete", True, 3)):
        folder = staging / name
        folder.mkdir(parents=True)
        for file in ("part-0.txt", *(["_SUCCESS"] if marker else [])):
            (folder / file).write_text("x" * 100)
        then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        for path in (*folder.iterdir(), folder):
            os.utime(path, (then, then))
    found = prune(store, Selection("2020-01-01"), apply=True).leftovers
    assert [(each.folder.rpartition("/")[2], each.num_bytes) for each in found] == [("dead", 100)]
    assert sorted(path.name for path in staging.iterdir()) == ["complete", "running"]


def test_datasets_of_models__without_a_registry_there_are_none_and_none_is_created(tmp_path: Path) -> None:
    tracking = config.load_settings().tracking
    assert datasets_of_models(tracking, str(tmp_path / "none")) == frozenset()
    assert not (tmp_path / "none").exists()
    assert datasets_of_models(tracking, "s3://bucket/tables") == frozenset()


def _with_models(root: str) -> config.Tracking:
    """Tracking settings; the registry of the root has a champion of dataset `week`, and a challenger of `newest`."""
    tracking = config.load_settings().tracking
    registry = Registry(tracking, root)
    client = registry.connect()
    registry.create_model(client)
    for number, name in enumerate(("old", "week", "newest"), start=1):
        client.create_model_version(tracking.model, "file:///none", tags={"dataset": name})
        client.set_registered_model_alias(tracking.model, "champion" if number == 2 else "challenger", str(number))
    return tracking


def test_datasets_of_models__are_those_of_champion_and_challenger(tmp_path: Path) -> None:
    assert datasets_of_models(_with_models(str(tmp_path)), str(tmp_path)) == {"week", "newest"}


def test_command__keeps_the_datasets_of_models_in_use_and_says_so(store: Store) -> None:
    for name in ("old", "week", "newest"):
        _write(store, "datasets", PartitionKey.named(name), nights=[PartitionKey.of_date("home", NIGHTS[0])])
    _with_models(store.root)
    arguments = ["--set", f"storage.root={store.root}", "--before", OLD, "--table", "datasets", "--apply"]
    answer = CliRunner().invoke(prune_command, arguments)
    assert answer.exit_code == 0, answer.output
    assert "prune: deleted datasets of old: " in answer.output
    assert "prune: kept datasets of week: a model in use was trained on it" in answer.output
    assert [key["name"] for key in store.partitions("datasets")] == ["newest", "week"]


def test_command__dry_run_first_then_apply(store: Store) -> None:
    arguments = ["--set", f"storage.root={store.root}", "--before", OLD]
    dry = CliRunner().invoke(prune_command, arguments)
    assert dry.exit_code == 0, dry.output
    assert "prune: would delete flows of home, 4 dates, 2026-01-01 to 2026-01-04: " in dry.output
    assert f"prune: kept census of lab, {NIGHTS[4]}: the last before the date" in dry.output
    assert dry.output.splitlines()[-1].endswith("nothing was deleted: add --apply")
    assert _dates(store, "flows") == NIGHTS
    done = CliRunner().invoke(prune_command, [*arguments, "--apply"])
    assert done.output.splitlines()[-1].startswith("prune: deleted 24 partitions before 2026-01-06, ")
    assert _dates(store, "flows") == NIGHTS[4:]


def test_command__days_count_from_today_and_one_of_both_is_needed(store: Store) -> None:
    root = ["--set", f"storage.root={store.root}"]
    dry = CliRunner().invoke(prune_command, [*root, "--older-than", "30"])
    day = (datetime.now(UTC).date() - timedelta(days=30)).isoformat()
    assert f"partitions before {day}" in dry.output
    for wrong in ([], ["--before", OLD, "--older-than", "3"]):
        answer = CliRunner().invoke(prune_command, [*root, *wrong])
        assert answer.exit_code == 2
        assert "give --before YYYY-MM-DD or --older-than DAYS, one of them" in answer.output


def test_command__a_root_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    answer = CliRunner().invoke(prune_command, ["--set", f"storage.root={tmp_path}/none", "--before", OLD])
    assert answer.exit_code == 2
    assert f"storage.root: {tmp_path}/none does not exist" in answer.output
