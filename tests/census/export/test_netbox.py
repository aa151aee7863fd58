"""Proposals for NetBox: its rules of bulk import, as a small model of it that refuses what NetBox refuses."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from iotid.census.export.netbox import FILES, propose, read_netbox_devices
from iotid.errors import InputError
from tests.census.export.stored_census import DATE, export, store_census
from tests.census.report_tables import FORMULA, HOSTILE, census_of, kind

MAC = "b0:c5:54:25:5b:{:02x}"
# table: (columns that may not be empty, columns that name an object of another table, sets of unique columns)
RULES: dict[str, tuple[list[str], dict[str, str], list[tuple[str, ...]]]] = {
    "sites": (["name", "slug", "status"], {}, [("name",), ("slug",)]),
    "manufacturers": (["name", "slug"], {}, [("name",), ("slug",)]),
    "device-types": (["manufacturer", "model", "slug"], {"manufacturer": "manufacturers"},
                     [("manufacturer", "model"), ("manufacturer", "slug")]),
    "device-roles": (["name", "slug", "color"], {}, [("name",), ("slug",)]),
    "devices": (["role", "manufacturer", "device_type", "status", "site"],
                {"role": "device-roles", "manufacturer": "manufacturers", "site": "sites"}, [("site", "name")]),
    "interfaces": (["device", "name", "type"], {"device": "devices"}, [("device", "name")]),
    "mac-addresses": (["mac_address"], {"device": "devices"}, []),
}  # fmt: skip
LIMITS = {"name": 100, "slug": 100, "model": 100, "description": 200}


class NetBox:
    """Imports files by the rules of NetBox's forms: a whole file or nothing, names resolve, unique columns."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, str]]] = {name: [] for name in RULES}

    def take(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            self._take(path.stem.partition("-")[2], path.read_text(encoding="utf-8"))

    def _take(self, stem: str, text: str) -> None:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert rows, "NetBox refuses a file without rows"
        name = stem.removesuffix("-update")
        required, references, unique = RULES[name]
        table = self.tables[name]
        for row in rows:
            number = row.pop("id", "")
            for column, value in row.items():
                most = 64 if (name, column) == ("devices", "name") else LIMITS.get(column)
                assert most is None or len(value) <= most, f"{column} is too long"
            assert all(row[column] for column in required), row
            for column, other in references.items():
                named = [each for each in self.tables[other] if each["name"] == row[column]]
                assert len(named) == 1, f"{column} {row[column]} is not one object"
            if name == "devices":
                types = [
                    each["model"] for each in self.tables["device-types"] if each["manufacturer"] == row["manufacturer"]
                ]
                assert row["device_type"] in types
                assert row["status"] == "staged"
            if number:
                table[int(number) - 1].update(row)
                continue
            for columns in unique:
                key = [row[column].lower() for column in columns]
                assert key not in [[each[column].lower() for column in columns] for each in table], f"{key} exists"
            table.append(row)

    def export(self, path: Path) -> str:
        """All Data (CSV): headers and statuses as NetBox shows them."""
        headers = {"ID": None, "Name": "name", "Status": "status", "Site": "site", "Role": "role",
                   "Manufacturer": "manufacturer", "Type": "device_type", "Comments": "comments"}  # fmt: skip
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(headers)
            for number, device in enumerate(self.tables["devices"], 1):
                shown = {**device, "status": device["status"].title()}
                writer.writerow([number if name is None else shown[name] for name in headers.values()])
        return str(path)


def _rows() -> list[dict[str, Any]]:
    sure = {"mac_randomised": False}
    return [
        {"device_id": MAC.format(1), **sure},
        {"device_id": MAC.format(2), "kinds": [kind("Cam 1", vendor="TP-Link", type="camera")], **sure},
        {"device_id": MAC.format(3), "kinds": [kind("Cam-1", vendor="TP Link", type="Camera")], **sure},
        {"device_id": "fe80::1:2:3", "kinds": [kind(None, vendor=None, type=None, kind="V lamp")]},
        {"device_id": MAC.format(4), "kinds": [kind(HOSTILE * 3, vendor=FORMULA, type="\x1b[1m" + "x" * 300)], **sure},
        {"device_id": MAC.format(5), "change": "gone", **sure},
        {"device_id": MAC.format(6), "marks": ["maker_differs"], **sure},
        {"device_id": "02:00:00:00:00:07", "mac_randomised": True},
        {"device_id": MAC.format(8), "status": "undecided", **sure},
        {"device_id": MAC.format(9), "status": "several", "kinds": [kind("a"), kind("b")], **sure},
    ]  # fmt: skip


def _export(tmp_path: Path, *more: str) -> str:
    return export(tmp_path, "--site", "lab", "--format", "netbox", "--output", f"{tmp_path}/out", *more).stderr


def test_netbox__takes_the_files_in_their_order(tmp_path: Path) -> None:
    store_census(tmp_path, _rows())
    printed = _export(tmp_path)
    assert "5 new" in printed
    for reason in ("1 absent", "1 marked", "1 of a MAC that may change", "1 undecided", "1 several"):
        assert reason in printed
    netbox = NetBox()
    netbox.take(tmp_path / "out")
    devices = netbox.tables["devices"]
    assert [device["name"] for device in devices[:2]] == ["lab b0:c5:54:25:5b:01", "lab b0:c5:54:25:5b:02"]
    assert {device["status"] for device in devices} == {"staged"}
    assert {row["mac_address"] for row in netbox.tables["mac-addresses"]} == {MAC.format(n) for n in (1, 2, 3, 4)}
    assert len(netbox.tables["interfaces"]) == 5


def test_netbox__a_second_import_makes_no_duplicates(tmp_path: Path) -> None:
    store_census(tmp_path, _rows())
    _export(tmp_path)
    netbox = NetBox()
    netbox.take(tmp_path / "out")
    again = _export(tmp_path, "--netbox-devices", netbox.export(tmp_path / "all.csv"))
    assert list((tmp_path / "out").iterdir()) == [], "files of the first export are removed"
    assert "5 unchanged" in again
    assert " new" not in again


def test_netbox__a_changed_name_is_an_update_and_a_new_device_is_added(tmp_path: Path) -> None:
    store_census(tmp_path, _rows()[:2])
    _export(tmp_path)
    netbox = NetBox()
    netbox.take(tmp_path / "out")
    changed = {**_rows()[0], "kinds": [kind("plug 2", vendor="Acme", type="meter")]}
    store_census(tmp_path, [changed, *_rows()[1:3]])
    printed = _export(tmp_path, "--netbox-devices", netbox.export(tmp_path / "all.csv"))
    assert "1 changed" in printed
    netbox.take(tmp_path / "out")
    devices = netbox.tables["devices"]
    assert [device["device_type"] for device in devices] == ["plug 2", "Cam 1", "Cam-1"]
    assert devices[0]["role"] == "meter"


def test_netbox__what_a_person_renamed_or_accepted_is_left_alone(tmp_path: Path) -> None:
    store_census(tmp_path, _rows()[:2])
    _export(tmp_path)
    netbox = NetBox()
    netbox.take(tmp_path / "out")
    renamed, accepted = netbox.tables["devices"]
    renamed["name"] = "plug in the hall"
    accepted.update(status="active", device_type="Cam of ours")
    printed = _export(tmp_path, "--netbox-devices", netbox.export(tmp_path / "all.csv"))
    assert "1 not staged any more" in printed
    assert "1 unchanged" in printed
    assert list((tmp_path / "out").iterdir()) == []


def test_netbox__names_and_slugs_do_not_depend_on_the_order_of_rows() -> None:
    rows = census_of(_rows()).to_pylist()
    assert propose(rows, "lab", DATE).texts() == propose(rows[::-1], "lab", DATE).texts()


def test_netbox__long_sites_have_names_that_differ() -> None:
    rows = census_of([{"device_id": MAC.format(n), "mac_randomised": False} for n in range(3)]).to_pylist()
    names = [row["name"] for row in propose(rows, "s" * 100, DATE).files["5-devices.csv"]]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 64


def test_netbox__a_census_with_pseudonyms_is_refused(tmp_path: Path) -> None:
    store_census(tmp_path, _rows(), key_fingerprint="0123456789ab")
    asked = ["--site", "lab", "--format", "netbox", "--output", f"{tmp_path}/out"]
    assert "this census has pseudonyms" in export(tmp_path, *asked, code=2).stderr


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "lacks the columns id, name, site"),
        (b"Name,Status,Site\na,Active,b\n", "lacks the column id"),
        (b'ID,Name,Site\n1,"a', "unexpected end of data"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_read_netbox_devices__a_wrong_file_is_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "all.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_netbox_devices(str(path))
    assert fault in str(caught.value)
    assert "All Data (CSV)" in str(caught.value)


def test_files__are_numbered_in_the_order_of_import() -> None:
    assert [name.partition("-")[0] for name in FILES] == [str(number) for number in range(1, 9)]
