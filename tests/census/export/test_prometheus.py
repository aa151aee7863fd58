"""Totals as Prometheus text: grammar of the format, escapes, numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iotid.partitions import PartitionKey, Store
from iotid.schemas import NETWORK
from tests.census.export.stored_census import DATE, export, store_census
from tests.census.report_tables import HOSTILE, kind

LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"(?P<name>[a-z_]+)\{{{LABEL}(?:,{LABEL})*\}} (?P<value>-?[0-9.e+-]+)")


def _samples(text: str) -> dict[str, float]:
    """Series -> value; asserts the grammar of the text format, version 0.0.4."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    declared: list[str] = []
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            declared.append(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {declared[-1]} gauge"
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == declared[-1], "the lines of a metric are one group"
            series = line.rpartition(" ")[0]
            assert series not in found
            found[series] = float(match["value"])
    assert len(declared) == len(set(declared))
    return found


def test_prometheus__has_totals_of_the_census(tmp_path: Path) -> None:
    rows = [{}, {"kinds": [kind("cam", 0.75, vendor="Volt", type="camera")]}, {"status": "unknown"}, {"change": "gone"}]
    store_census(tmp_path, rows)
    text = export(tmp_path, "--site", "lab", "--format", "prometheus").stdout
    found = _samples(text)
    assert found['iotid_census_addresses{site="lab",status="known"}'] == 3
    assert found['iotid_census_watched_addresses{site="lab"}'] == 1
    assert found['iotid_census_changes{site="lab",change="gone"}'] == 0
    assert found['iotid_census_type_found{site="lab",type="camera"}'] == 1
    assert found['iotid_census_type_expected{site="lab",type="camera"}'] == 0.75
    assert found['iotid_census_vendor_found{site="lab",vendor="Acme"}'] == 1, "not what is gone"
    assert found['iotid_census_capture_date_timestamp_seconds{site="lab"}'] == 1768003200
    assert found['iotid_census_last_packet_timestamp_seconds{site="lab"}'] == 1768017906
    export(tmp_path, "--site", "lab", "--format", "prometheus", "--output", f"{tmp_path}/iotid.prom")
    assert (tmp_path / "iotid.prom").read_text(encoding="utf-8") == text


def test_prometheus__hostile_names_stay_inside_their_label(tmp_path: Path) -> None:
    names = [HOSTILE, 'a"} 1\n# HELP x y\nx{b="', "back\\slash", "\x1b[31m", "ünï"]
    store_census(tmp_path, [{"kinds": [kind("a", vendor=name, type=name)]} for name in names])
    text = export(tmp_path, "--site", "lab", "--format", "prometheus").stdout
    found = _samples(text)
    assert sum(series.startswith("iotid_census_vendor_found{") for series in found) == len(names)
    assert "\x1b" not in text
    assert 'vendor="back\\\\slash"' in text


def test_prometheus__of_a_network_are_its_totals_in_all_and_by_site(tmp_path: Path) -> None:
    schema = NETWORK.arrow_schema(stored=True)
    zeros = {name: 0 for name in schema.names if name not in ("site", "level", "item")}
    counts = {**zeros, "level": "type", "item": "camera", "found": 3, "expected": 3.5, "low": 2, "high": 5}
    rows = [{"site": None, **counts}, {"site": "lab", **counts}]
    with Store(str(tmp_path)).write("network", PartitionKey.of_network("all", DATE), NETWORK.version) as staged:
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        staged.metadata["rows"] = 2
    found = _samples(export(tmp_path, "--network", "all", "--format", "prometheus").stdout)
    assert found['iotid_network_expected{network="all",level="type",item="camera"}'] == 3.5
    assert found['iotid_network_site_high{network="all",site="lab",level="type",item="camera"}'] == 5


def test_prometheus__of_a_network_without_a_census_is_an_error(tmp_path: Path) -> None:
    asked = ["--network", "all", "--format", "prometheus"]
    assert "run iotid take-network-census first" in export(tmp_path, *asked, code=2).stderr
