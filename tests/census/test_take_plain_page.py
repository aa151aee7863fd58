"""What the page of a census and the files beside it say of other partitions, without Spark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from iotid.census.pseudonyms import KEY_VARIABLE
from iotid.census.stored import JSON_LINES, PAGE, stored_rows
from iotid.cli import steps
from iotid.labels.devices import Device
from iotid.partitions import ALL_SITES, Partition, PartitionKey, Store

from .plain_site import KEY, A, B, C, D, Site


def _links(census: Partition) -> list[str]:
    page = Path(census.uri, PAGE).read_text()
    return [link for link in re.findall(r'href="([^"]*)"', page) if link.startswith("../")]


def _dataset(site: Site, *days: int, hashed: str = "0a") -> None:
    nights = [dict(PartitionKey.of_date("lab", f"2026-01-{day:02}")) for day in days]
    with site.store.write("datasets", PartitionKey.named("home")) as staged:
        staged.metadata |= {"hash": hashed, "nights": nights}


def test_take_plain__says_whether_the_model_was_trained_on_the_date(plain_site: Site) -> None:
    def learned(day: int) -> tuple[Any, bool]:
        census = plain_site.census(day)
        page = Path(census.uri, PAGE).read_text()
        return census.metadata["learned_from_date"], "The model was trained on this date" in page

    for day in (1, 2):
        plain_site.flows(day, a="camera")
    assert learned(1) == (None, False), "the model does not name its dataset"
    plain_site.tags = {"dataset": "home", "dataset_hash": "0a"}
    assert learned(1) == (None, False), "the dataset is not here"
    _dataset(plain_site, 1)
    assert learned(1) == (True, True)
    assert learned(2) == (False, False)
    _dataset(plain_site, 1, hashed="0b")
    assert learned(1) == (None, False), "the dataset was written again"
    assert plain_site.census(1, version=None).metadata["learned_from_date"] is None


def test_take_plain__json_lines_beside_the_page_are_those_of_the_export(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b=None)
    written = Path(plain_site.census(1).uri, JSON_LINES).read_text()
    asked = ["export", "--date", "2026-01-01", "--site", "lab", "--format", "jsonl"]
    exported = CliRunner().invoke(steps, [*asked, "--set", f"storage.root={plain_site.store.root}"])
    assert exported.exit_code == 0, exported.output
    assert written == exported.stdout
    assert [json.loads(line)["key"] for line in written.splitlines()] == [f"lab/{A}", f"lab/{B}"]


def test_take_plain__page_leads_to_the_dates_beside_it_the_network_and_the_report(plain_site: Site) -> None:
    for day in (1, 3):
        plain_site.flows(day, a="camera")
    plain_site.tags = {"dataset": "home"}
    first = plain_site.census(1)
    assert [unquote(link).split("/")[-2] for link in _links(first)] == ["capture_date=2026-01-02", f"name={ALL_SITES}"]
    with plain_site.store.write("reports", PartitionKey.of_dataset("home")) as staged:
        staged.write_text("report.html", "")
    third = plain_site.census(3)
    before, after, network, report = (Path(third.uri, unquote(link)).resolve() for link in _links(third))
    assert before == Path(first.uri, PAGE).resolve()
    assert before.is_file()
    assert after.parent.name == "capture_date=2026-01-04"
    key = PartitionKey.of_network(ALL_SITES, "2026-01-03")
    root = Path(plain_site.store.root)
    assert network == (root / "network" / key.folder / "_network.html").resolve()
    assert report.is_file(), "the report on the model's dataset"


def test_take_plain__page_on_an_object_store_leads_to_no_other_partition(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_site.flows(1, a="camera")
    plain_site.flows(2, a="camera")
    plain_site.census(1)
    monkeypatch.setattr(Store, "link", lambda *_: None)
    census = plain_site.census(2)
    assert _links(census) == []
    assert 'href="_census.csv"' in Path(census.uri, PAGE).read_text()


DEVICES = [
    Device.model_validate({"name": name, "model": model, "mac": mac})
    for name, model, mac in (("porch cam", "camera", A), ("hall plug", "plug", B), ("cellar cam", "camera", C))
]


def test_take_plain__compares_the_rows_with_the_device_list(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="camera", c="camera", d="plug")
    plain_site.flows(2, a="camera", b="camera", d="plug")
    plain_site.census(1, devices=DEVICES)
    census = plain_site.census(2, devices=DEVICES)
    rows = {row["device_id"]: row for row in stored_rows(census).to_pylist()}
    assert {device: (row["device_name"], row["list_check"]) for device, row in rows.items()} == {
        A: ("porch cam", "agrees"), B: ("hall plug", "differs"), C: ("cellar cam", None), D: (None, "not_listed"),
    }  # fmt: skip
    assert census.metadata["device_list"]["not_seen_names"] == ["cellar cam"]
    without = stored_rows(plain_site.census(2))
    assert set(without["list_check"].to_pylist()) == {None}


def test_take_plain__pseudonyms_are_compared_with_no_device_list(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    plain_site.flows(1, a="camera")
    census = plain_site.census(1, devices=DEVICES, pseudonyms="opaque")
    assert census.metadata["device_list"] == {}
    for path in Path(census.uri).iterdir():
        assert b"porch cam" not in path.read_bytes(), path


def test_take_plain__shows_the_quality_of_the_model_on_devices(plain_site: Site) -> None:
    plain_site.flows(1, a="camera")
    plain_site.tags = {"quality": "macro F1 90 %"}
    census = plain_site.census(1)
    assert (census.metadata["model_quality"], census.metadata["device_quality"]) == ("macro F1 90 %", None)
    plain_site.tags["device_quality"] = "of 3 device nights it named 2 rightly"
    page = Path(plain_site.census(1).uri, "_census.html").read_text(encoding="utf-8")
    assert "of 3 device nights it named 2 rightly" in page
    assert "macro F1" not in page, "of flows, not of devices"


def test_take_plain__every_parquet_file_says_what_it_is(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", c=None)
    files = [path for path in Path(plain_site.census(1).uri).iterdir() if path.suffix in (".parquet", ".pq")]
    tables = {path.name: pq.read_schema(path).metadata[b"iotid.table"].decode() for path in files}
    assert tables == {
        "part-0.parquet": "census", "_groups.pq": "groups", "_totals.pq": "totals", "_left_out.pq": "left_out",
    }  # fmt: skip
