"""`iotid name`: what it prints, stores and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iotid.cli.name import main
from iotid.labels.group_names import GroupNames
from iotid.partitions import Store

G, H = "g0123456789", "gabcdefabcd"
ESCAPE = "\x1b[31mred"


@pytest.fixture
def store(tmp_path: Path, write_grouped_census: Callable, grouped_row: Callable) -> Store:
    made = Store(str(tmp_path))
    macs = [f"50:c7:bf:00:00:0{n}" for n in range(3)]
    write_grouped_census(made, "a", 1, *(grouped_row(mac, H, maker="Espressif") for mac in macs))
    write_grouped_census(made, "a", 2, grouped_row(macs[0], H, maker="Espressif"), grouped_row("10.0.0.7", G))
    return made


def _run(store: Store, *arguments: str) -> Any:
    return CliRunner().invoke(main, [*arguments, "--set", f"storage.root={store.root}"])


def test_name__prints_what_is_stored_and_that_the_same_again_changes_nothing(store: Store) -> None:
    said = [H, "--model", "Cam 2", "--vendor", "Acme", "--type", "camera", "--by", "anna"]
    first = _run(store, *said)
    assert first.exit_code == 0, first.output
    assert first.output.startswith(f"name: {H} is Cam 2 (Acme, camera) (anna, 20")
    assert "): 3 devices, 1 site, 2 censuses" in first.output
    assert "; nothing changed" in _run(store, *said).output
    assert "is rejected (ben, " in _run(store, H, "--reject", "--by", "ben").output
    assert "is to be split (ben, " in _run(store, H, "--split", "--by", "ben", "--date", "2026-01-02").output
    assert len(GroupNames.read(store).statements) == 3


def test_name__who_says_it_defaults_to_the_login_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "carla")
    assert "(carla, " in _run(store, G, "--model", "x").output

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    refused = _run(store, G, "--model", "x")
    assert (refused.exit_code, "--by: this machine has no login name" in refused.output) == (2, True)


def test_name__list_shows_the_largest_group_first_with_what_was_said(store: Store) -> None:
    _run(store, G, "--model", f"Cam {ESCAPE}", "--by", "anna")
    _run(store, G, "--model", "Cam 3", "--by", "ben", "--date", "2026-02-02")
    largest, smaller = _run(store, "--list").output.splitlines()
    assert largest == (f"{H}: 3 devices at 1 site on 2 dates since 2026-01-01; TCP {H}; 3 Espressif; not named")
    assert smaller.startswith(
        f"{G}: 1 device at 1 site on 2026-01-02; TCP {G}; makers unknown; Cam \\x1b[31mred: anna, "
    )
    assert _run(store, "--list", "--date", "2026-01-01").output.count("\n") == 1


def test_name__list_of_censuses_with_pseudonyms_leaves_out_what_they_encrypt(
    store: Store, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    write_grouped_census(store, "b", 1, grouped_row("02:00:00:00:00:01", "gffffffffff"), key_fingerprint="0123")
    line = _run(store, "--list", "--site", "b").output
    assert line == "gffffffffff: 1 device at 1 site on 2026-01-01; no services; makers unknown; not named\n"


@pytest.mark.parametrize(
    "arguments",
    [[], [G], ["--model", "x"], [G, "--model", "x", "--reject"], [G, "--list"], ["--list", "--split"]],
)
def test_name__anything_but_one_thing_to_say_of_a_group_is_refused(store: Store, arguments: list[str]) -> None:
    refused = _run(store, *arguments)
    assert refused.exit_code == 2
    assert "Error: name: give a GROUP and one of --model, --reject and --split" in refused.output
    assert not store.partitions("group_names")


def test_name__an_unknown_group_is_one_line(store: Store) -> None:
    refused = _run(store, f"g{ESCAPE}", "--model", "x")
    assert refused.exit_code == 2
    assert "\x1b" not in refused.output
    assert "is no group of 2 censuses" in refused.output
    assert "iotid name --list shows all" in refused.output


def test_name__before_any_census_there_is_nothing_to_list(tmp_path: Path) -> None:
    assert _run(Store(str(tmp_path)), "--list").output == "name: no census has a group\n"
