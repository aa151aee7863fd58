"""Who registered a MAC's prefix, and when that contradicts the vendor named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from iotid.census.macs import with_macs
from iotid.census.makers import _RELEASED, bundled_makers, contradict, read_makers
from iotid.census.marks import SENTENCES
from iotid.config import load_settings
from iotid.errors import SettingError
from iotid.schemas import CENSUS

ROOT = Path(__file__).parents[2]
HEADER = "Registry,Assignment,Organization Name,Organization Address\n"
OF_THREE_LENGTHS = (
    HEADER
    + 'MA-L,0055DA,IEEE Registration Authority,"Piscataway, US"\nMA-L,001788,Philips Lighting BV,Eindhoven\n'
    + HEADER
    + "MA-M,0055DA1,KoolPOS Inc.,\nMA-M,0055DA2,Private,\nMA-S,0055DA3F1,Ünïté,\n"
)


def _listed() -> list[tuple[str, str, str]]:
    """(list, MAC, vendor) of the public device lists, each once."""
    found = set()
    for path in (ROOT / "conf" / "datasets").glob("*.yaml"):
        for device in yaml.safe_load(path.read_text(encoding="utf-8"))["devices"]:
            macs = device.get("mac") or device.get("macs") or []
            found |= {(path.stem, mac, device["vendor"]) for mac in ([macs] if isinstance(macs, str) else macs)}
    return sorted(found)


def _read(tmp_path: Path, content: str | bytes) -> Any:
    path = tmp_path / "makers.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_makers([str(path)])


def test_of__takes_the_longest_prefix(tmp_path: Path) -> None:
    macs = ["00:17:88:24:76:ff", "00:55:da:10:00:01", "00:55:DA:3F:1A:BC", "00:55:da:3f:20:00", "00:55:da:20:00:01",
            "00:17:89:00:00:01", None]  # fmt: skip
    expected = ["Philips Lighting BV", "KoolPOS Inc.", "Ünïté", None, None, None, None]
    makers = _read(tmp_path, OF_THREE_LENGTHS)
    assert makers.of(pa.array(macs, pa.string())).to_pylist() == expected
    assert makers.source == "census.makers, 5 prefixes"


def test_of__agrees_with_a_search_one_by_one() -> None:
    table = bundled_makers()
    macs = [mac for _, mac, _ in _listed()] + ["00:55:da:1f:ff:ff", "00:1b:c5:00:1a:aa", "8c:1f:64:00:30:01"]
    names = {}
    for prefix, name in table.prefixes.values():
        names |= dict(zip(prefix.to_pylist(), name.to_pylist(), strict=True))
    for mac, found in zip(macs, table.of(pa.array(macs)).to_pylist(), strict=True):
        longest = [names[mac[:end]] for end in (13, 10, 8) if mac[:end] in names]
        assert found == ((longest[0] or None) if longest else None), mac


def test_bundled_makers__names_nearly_all_macs_of_the_public_lists_and_has_a_date() -> None:
    macs = sorted({mac for _, mac, _ in _listed()})
    table = bundled_makers()
    assert table.of(pa.array(macs)).null_count <= 2
    assert any(table.source.endswith(f"of {day}") for day in _RELEASED.values()), "give the new version's date"


def test_of__a_million_macs_take_a_second() -> None:
    table = bundled_makers()
    prefixes = [mac[:9] for _, mac, _ in _listed()]
    macs = pa.array([f"{prefix}{n & 255:02x}:{n >> 8 & 255:02x}:00" for n in range(8000) for prefix in prefixes])
    start = time.perf_counter()
    assert len(table.of(macs[:1_000_000])) == 1_000_000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a,b\n1,2\n", "line 1 lacks Assignment and Organization Name"),
        ("", "line 1 lacks"),
        (HEADER + "MA-L,00178,Philips,\n", "line 2: Assignment must be 6, 7 or 9 hexadecimal digits, got '00178'"),
        (HEADER + "MA-L,=1+1,Philips,\n", "line 2: Assignment must be"),
        (HEADER + "MA-L\n", "line 2: Assignment must be"),
        (HEADER + 'MA-L,001788,"Phil', "unexpected end of data"),
        (HEADER.encode() + b"MA-L,001788,\xff,\n", "it is not UTF-8 text"),
    ],
)
def test_read_makers__a_wrong_file_is_one_line(tmp_path: Path, content: str | bytes, fault: str) -> None:
    with pytest.raises(SettingError) as caught:
        _read(tmp_path, content)
    assert fault in str(caught.value)
    assert "census.makers" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.csv", ".", "nul\0.csv"])
def test_read_makers__what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"census\.makers: .*cannot be read"):
        read_makers([str(tmp_path / name)])


def test_read_makers__control_characters_are_escaped_and_long_names_cut(tmp_path: Path) -> None:
    makers = _read(tmp_path, f'{HEADER}MA-L,001788,"a\x1b[31m\nb",\nMA-L,001789,{"x" * 500},\n')
    hostile, long = makers.of(pa.array(["00:17:88:00:00:00", "00:17:89:00:00:00"])).to_pylist()
    assert "\x1b" not in hostile
    assert "\n" not in hostile
    assert len(long) == 120


def test_setting__is_one_path_or_a_list_or_null() -> None:
    assert load_settings().census.makers is None
    assert load_settings([], ["census.makers=a.csv"]).census.makers == ("a.csv",)
    assert load_settings([], ["census.makers=[a.csv, b.csv]"]).census.makers == ("a.csv", "b.csv")
    with pytest.raises(SettingError):
        load_settings([], ["census.makers=[]"])


@pytest.mark.parametrize(
    ("vendor", "maker", "contradicts"),
    [
        ("TP-Link", "D-Link International", True),
        ("D-Link", "D-Link International", False),
        ("tp-link", "Tp-Link Technologies Co.,Ltd.", False),
        ("TP-Link", "Espressif Inc.", False),  # a maker of modules
        ("TP-Link", "Delta Electronics", False),  # in no device list
        ("Nest", "Google, Inc.", False),  # one company
        ("Wemo", "Belkin International Inc.", False),
        ("Google", "Belkin International Inc.", True),
        ("Smart", "Belkin International Inc.", False),  # its name says nothing
        (None, "D-Link International", False),
        ("TP-Link", None, False),
    ],
)
def test_contradict__is_another_vendor_of_the_list(vendor: str | None, maker: str | None, contradicts: bool) -> None:
    vendors = ["TP-Link", "D-Link", "Nest", "Google", "Belkin", "Espressif", "Smart"]
    found = contradict(pa.array([vendor], pa.string()), pa.array([maker], pa.string()), vendors)
    assert found.to_pylist() == [contradicts]


def test_contradict__marks_no_true_device_of_the_lists_and_half_of_wrong_names() -> None:
    listed = _listed()
    macs, vendors = (pa.array([row[column] for row in listed]) for column in (1, 2))
    known = set(vendors.to_pylist())
    makers = bundled_makers().of(macs)
    assert sum(contradict(vendors, makers, known).to_pylist()) <= 0.05 * len(listed)
    wrong = [(other, maker) for vendor, maker in zip(vendors.to_pylist(), makers.to_pylist(), strict=True)
             for other in known - {vendor}]  # fmt: skip
    of_wrong = contradict(*(pa.array(column, pa.string()) for column in zip(*wrong, strict=True)), known).to_pylist()
    assert sum(of_wrong) >= 0.4 * len(wrong)


def test_with_macs__only_global_macs_have_a_maker_and_a_wrong_name_is_marked() -> None:
    ids = ["b0:c5:54:25:5b:0e", "b2:c5:54:25:5b:0e", "192.168.1.5", "fe80::1", "50:c7:bf:00:fc:a3", "1c:5f:2b:aa:fd:4e"]
    status = ["known", "known", "known", "unknown", "known", "several"]
    schema = CENSUS.arrow_schema()
    names, marked = ("device_id", "status", "vendor", "reason", "marks"), ["kinds_at_once"]
    rows = [
        {"device_id": name, "status": each, "vendor": "TP-Link", "reason": "Why.", "marks": marked[: name[0] == "5"]}
        for name, each in zip(ids, status, strict=True)
    ]  # fmt: skip
    devices = pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in names]))
    found = with_macs(devices, bundled_makers(), ["TP-Link", "D-Link"]).to_pylist()
    dlink, tplink = "D-Link International", "Tp-Link Technologies Co.,Ltd."
    assert [row["maker"] for row in found] == [dlink, None, None, None, tplink, dlink]
    assert [row["mac_randomised"] for row in found] == [False, True, None, None, False, False]
    assert [row["marks"] for row in found] == [["maker_differs"], [], [], [], ["kinds_at_once"], []]
    assert [row["reason"] for row in found] == [f"Why. {SENTENCES['maker_differs']}", *["Why."] * 5]
