"""The census with pseudonyms, on Spark, with a real small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms
from iotid.errors import SettingError

if TYPE_CHECKING:
    pass


from .spark_site import IPS, KEY, OTHER_KEY, A, B, C, Site, stored

pytestmark = pytest.mark.spark


@pytest.mark.parametrize("mode", ["opaque", "prefixes"])
def test_take_census__under_pseudonyms_no_mac_address_or_key_is_written_nor_logged(
    site: Site, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    site.flows(
        1,
        *[site.make("camera", IPS[A], A)] * 3,
        *[site.make("camera", "fe80::aa:1", A, server_ip="ff02::fb", server_mac="33:33:00:00:00:fb")] * 2,
        *[site.make("plug", "10.9.9.9", None)] * 2,
        *[site.make("odd", "fd00::7:7", None)] * 2,
    )
    census = site.with_key(1, KEY, pseudonyms=mode)
    pseudonyms = Pseudonyms(KEY.encode(), keep_prefixes=mode == "prefixes")
    a, plug, odd = pseudonyms.of(pa.array([A, "10.9.9.9", "fd00::7:7"])).to_pylist()
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {device: row["label"] for device, row in rows.items()} == {a: "camera", plug: "plug", odd: None}
    listed = sorted(pseudonyms.of(pa.array([IPS[A], "fe80::aa:1"])).to_pylist())
    assert rows[a]["addresses"] == (listed if mode == "prefixes" else [])
    assert rows[plug]["addresses"] == [plug]
    assert census.metadata["key_fingerprint"] == pseudonyms.fingerprint
    files = {path.name: path.read_bytes() for path in Path(census.uri).rglob("*") if path.is_file()}
    assert {"_census.html", "_census.csv", "_METADATA.json", "part-0.parquet"} <= set(files)
    secret = [A, IPS[A], "fe80::aa:1", "10.9.9.9", "fd00::7:7", KEY]
    files["rows"] = str(stored(census).to_pylist()).encode()  # Parquet's own bytes may be compressed
    for text in secret:
        assert not [name for name, content in files.items() if text.encode() in content]
        assert text not in caplog.text
    clear = Path(site.census(1).uri)  # what was looked for would have been found
    for text in secret[:-1]:
        assert all(text.encode() in (clear / name).read_bytes() for name in ("_census.html", "_census.csv"))


def test_take_census__censuses_join_under_one_key_and_not_under_two(site: Site) -> None:
    for day, patterns in enumerate(({"a": "camera", "b": "plug"}, {"a": "plug", "c": "plug"}, {"c": "plug"}), start=1):
        site.devices(day, **patterns)
    a, b, c = Pseudonyms(KEY.encode()).of(pa.array([A, B, C])).to_pylist()
    site.with_key(1, KEY)
    second = site.with_key(2, KEY)
    assert {row["device_id"]: row["change"] for row in stored(second).to_pylist()} == {
        a: "changed",
        b: "gone",
        c: "new",
    }
    assert second.metadata["compared_with"] == {"capture_date": "2026-01-01", "how": "as it was"}
    apart = {"capture_date": "2026-01-02", "how": "not joinable"}
    for third in (site.with_key(3, OTHER_KEY), site.census(3)):
        assert third.metadata["compared_with"] == apart
        assert [row["change"] for row in stored(third).to_pylist()] == ["baseline"]
    third = site.with_key(3, KEY)
    assert {row["device_id"]: row["change"] for row in stored(third).to_pylist()} == {a: "gone", b: "away", c: "same"}


def test_take_census__earlier_flows_are_scored_again_with_the_same_pseudonyms(
    site: Site, model_folder: Callable[..., Path]
) -> None:
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", b="plug")
    site.devices(3, a="camera", b="camera", c="camera")
    site.with_key(1, KEY)
    site.with_key(2, KEY)
    census = site.with_key(3, KEY, version=2, model=model_folder(("webcam", "socket")))
    assert census.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    found = {row["device_id"]: (row["change"], row["previous_label"]) for row in stored(census).to_pylist()}
    names = Pseudonyms(KEY.encode()).of(pa.array([A, B, C])).to_pylist()
    assert found == dict(zip(names, [("same", "webcam"), ("changed", "socket"), ("back", "camera")], strict=True))


def test_take_census__without_a_key_is_refused_before_reading(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match=r"census\.pseudonyms: is opaque, but there is no key"):
        site.census(1, pseudonyms="opaque")
