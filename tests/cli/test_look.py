"""`iotid look`: what it prints of captures, for a terminal, as CSV and as JSON; its errors, and what it imports."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from iotid.capture.counters import counters
from iotid.census.champion import FoundModel
from iotid.census.inventory import Inventory
from iotid.cli import inventory_output, progress
from iotid.cli.inventory import main
from iotid.cli.text_table import TextColumn, display_width, lay_out, wrap
from iotid.flows import from_captures
from iotid.messages import one_line
from iotid.schemas import CENSUS, GROUPS, LEFT_OUT

CAMERA, TWIN, PLUG, GATE = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c", "01"))
HELP = Path(__file__).parent / "look_help.txt"
UDP, ICMP = 17, 1


def _frame(source: tuple[str, str], target: tuple[str, str], payload: int, port: int, protocol: int = UDP) -> bytes:
    """An Ethernet frame; ``source``, ``target``: MAC and IPv4 address; the higher port is 4000."""
    ports = (4000, port) if source[0] != GATE else (port, 4000)
    body = struct.pack(">HHHH", *ports, 8 + payload, 0) + bytes(payload)
    addresses = b"".join(bytes(map(int, ip.split("."))) for _, ip in (source, target))
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + addresses
    macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac, _ in (target, source))
    return macs + b"\x08\x00" + header + body


def _pcap(path: Path, frames: list[bytes]) -> Path:
    records = [struct.pack("<IIII", 1_767_960_000 + n, 0, len(each), len(each)) + each for n, each in enumerate(frames)]
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records))
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two devices with equal traffic and one other, each with a server outside; an unanswered host, ICMP and ARP."""
    server = (GATE, "52.0.0.1")
    frames = []
    for mac, ip, payload, port in (
        (CAMERA, "192.168.1.10", 100, 443), (TWIN, "192.168.1.11", 100, 443), (PLUG, "192.168.1.12", 7, 8883),
    ):  # fmt: skip
        for _ in range(3):
            frames += [_frame((mac, ip), server, payload, port), _frame(server, (mac, ip), 30, port)]
    frames.append(_frame(server, ("02:00:00:00:00:0d", "192.168.1.13"), 9, 9))
    frames.append(_frame((PLUG, "192.168.1.12"), server, 5, 0, ICMP))
    frames.append(b"\xff" * 6 + b"\x02\0\0\0\0\x0a\x08\x06" + bytes(28))
    return _pcap(tmp_path / "a.pcap", frames)


def _look(*arguments: Any, width: int | None = None, tmp: Path | None = None) -> Result:
    root = ["--set", f"storage.root={tmp}"] if tmp else []
    env = {"COLUMNS": str(width)} if width else {"COLUMNS": None}
    return CliRunner(env=env).invoke(main, [*map(str, arguments), *root])


def test_look__lists_devices_groups_flows_left_out_and_packets(capture: Path, tmp_path: Path) -> None:
    result = _look(capture, tmp=tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "3 devices, without a model: 3 unknown"
    assert lines[1].startswith("No model: none is given; name a tracking store")
    (camera,) = [line for line in lines if line.startswith(CAMERA)]
    assert re.search(
        r"192\.168\.1\.10 +unknown, group g\w+ +1 +\d+ B +2026-01-09 12:00 +2026-01-09 12:00 +UDP 443", camera
    )
    groups = [re.split("  +", line) for line in lines if re.match("g[0-9a-f]{10} ", line)]
    assert [line[1:] for line in groups] == [
        ["2", "2", "UDP 443", "1 flows/h in 1 h of the day"], ["1", "1", "UDP 8883", "1 flows/h in 1 h of the day"],
    ]  # fmt: skip
    assert "flows left out, unanswered: 1, of 1 MACs or addresses" in lines
    assert "flows left out, other protocol: 1, of 1 MACs or addresses" in lines
    assert lines[-1] == "packets: 20 in flows; in no flow: 1 not ip"
    assert "\x1b" not in result.output


def test_look__csv_has_the_columns_of_a_census_and_json_everything(capture: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(_look(capture, "--format", "csv", tmp=tmp_path).stdout)))
    assert list(rows[0]) == [*CENSUS.arrow_schema(stored=True).names, "services"]
    assert [(row["device_id"], row["status"], row["services"]) for row in rows] == [
        (CAMERA, "unknown", "UDP 443"), (TWIN, "unknown", "UDP 443"), (PLUG, "unknown", "UDP 8883"),
    ]  # fmt: skip
    found = json.loads(_look(capture, "--format", "json", tmp=tmp_path).stdout)
    assert (found["version"], found["model"], found["packets"]) == (1, None, {"flow": 20, "not_ip": 1})
    assert [row["device_id"] for row in found["devices"]] == [CAMERA, TWIN, PLUG]
    assert found["devices"][0]["first_seen"] == "2026-01-09T12:00:00+00:00"
    assert sorted(row["services"] for row in found["groups"]) == [["UDP 443"], ["UDP 8883"]]
    assert {row["reason"]: row["flows"] for row in found["left_out"]} == {"unanswered": 1, "other_protocol": 1}


def test_look__reads_folders_and_settings(capture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    _pcap(folder / "b.pcap", [_frame((PLUG, "192.168.1.12"), (GATE, "52.0.0.1"), 7, 8883)] * 2)
    both = json.loads(_look(capture, folder, "--format", "json", tmp=tmp_path).stdout)
    assert both["packets"]["flow"] == 22
    icmp = json.loads(
        _look(capture, "--format", "json", "--set", "dataset.protocols=[1]", tmp=tmp_path).stdout
    )  # fmt: skip
    assert [row["device_id"] for row in icmp["devices"]] == [PLUG]


@pytest.mark.parametrize("what", ["missing", "no capture", "no packets", "no model"])
def test_look__a_mistake_is_one_line(what: str, capture: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no capture")
    given = {
        "missing": ([tmp_path / "none.pcap"], 2, "none.pcap"),
        "no capture": ([tmp_path / "text"], 2, "holds no capture (pcap or pcapng"),
        "no packets": ([_pcap(tmp_path / "empty.pcap", [])], 2, "empty.pcap: no packet is in it"),
        "no model": ([capture, "--model", tmp_path / "nowhere"], 2, "nowhere: is no bundle"),
    }
    arguments, code, words = given[what]
    result = _look(*arguments, tmp=tmp_path)
    assert result.exit_code == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert words in line
    assert not result.stdout


def test_look__a_tracking_store_that_does_not_answer_is_an_error(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotid.tracking.client.RETRY_S", 0.0)
    result = _look(capture, "--tracking", "http://127.0.0.1:9", tmp=tmp_path)
    assert result.exit_code == 2
    assert "http://127.0.0.1:9" in result.stderr
    assert not result.stdout


def test_look__help_is_as_written() -> None:
    result = CliRunner().invoke(main, ["--help"], prog_name="iotid look", terminal_width=100)
    assert result.output == HELP.read_text(encoding="utf-8")


def test_look__imports_neither_spark_nor_torch_nor_mlflow(capture: Path, tmp_path: Path) -> None:
    heavy = ["pyspark", "torch", "mlflow", "sklearn", "matplotlib", "scapy", "jinja2", "petastorm"]
    code = (
        "import sys; from iotid.cli.inventory import main; "
        f"main({[str(capture), '--format', 'csv', '--set', f'storage.root={tmp_path}']!r}, standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def _with_names(capture: Path, label: str) -> tuple[Inventory, Any]:
    """An inventory of one device with this label, whose group, maker and service have it, too."""
    kind = {"kind": label, "label": label, "vendor": None, "type": None, "confidence": 0.934, "flows": 1, "units": 1}
    flows = from_captures(capture)
    seen = flows["first_seen"][0].as_py()
    row = {
        "device_id": CAMERA, "status": "several_with_unknown", "confidence": 0.9, "kinds": [kind], "runners_up": [],
        "unexplained": 0.1, "household": 0.9, "reason": "x", "marks": [], "group_name": label, "maker": label,
        "flows": 3, "bytes": 1_250_000, "first_seen": seen, "last_seen": seen, "addresses": ["10.0.0.1", "10.0.0.2"],
        "change": "baseline", "new_kinds": [], "watched": False,
    }  # fmt: skip
    import pyarrow as pa

    devices = pa.Table.from_pylist([row], schema=CENSUS.arrow_schema(stored=True))
    empty = (table.arrow_schema().empty_table() for table in (GROUPS, LEFT_OUT))
    return Inventory(devices, [[label]], *empty), flows


def test_print_inventory__escapes_control_characters_and_shows_probabilities(
    capture: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")  # so that no cell is cut
    inventory, flows = _with_names(capture, "cam\x1b[31m\u202e\n")
    assert len(counters(flows)) > 0
    inventory_output.print_inventory(inventory, flows, FoundModel(object(), "model version 3"), "table")  # type: ignore[arg-type]
    text = capsys.readouterr().out
    assert "1 devices, by model version 3: 1 several with unknown" in text
    assert r"cam\x1b[31m\u202e\n 93 %; an unknown device" in text
    assert "10.0.0.1 +1" in text
    assert "1.2 MB" in text
    assert all(line == one_line(line) for line in text.splitlines())


@pytest.mark.parametrize(
    ("p_value", "shown"), [(None, ""), (0.051, ""), (0.05, "; unlike its kind (p 0.05)"), (0.00234, " (p 0.0023)")]
)
def test_print_inventory__says_unlike_its_kind_up_to_a_p_value(
    p_value: float | None,
    shown: str,
    capture: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    inventory, flows = _with_names(capture, "cam")
    (row,) = inventory.devices.to_pylist()
    schema = inventory.devices.schema
    devices = type(inventory.devices).from_pylist([row | {"status": "known", "unlike_kind": p_value}], schema=schema)
    inventory_output.print_inventory(
        dataclasses.replace(inventory, devices=devices),
        flows,
        FoundModel(object(), "model version 3"),
        "table",  # type: ignore[arg-type]
    )
    text = capsys.readouterr().out
    assert "cam 93 %" in text
    assert shown in text
    assert ("unlike its kind" in text) == bool(shown)


@pytest.mark.parametrize("width", [30, 50, 80, 100, 140])
def test_print_inventory__no_line_is_wider_than_the_terminal(capture: Path, tmp_path: Path, width: int) -> None:
    result = _look(capture, tmp=tmp_path, width=width)
    lines = result.stdout.splitlines()
    table = [line for line in lines if line.startswith(("DEVICE", "02:", "GROUP"))]
    assert len(table) >= 5
    assert max(map(len, table)) <= width
    assert ("Too narrow for: services" in result.stdout) == (width < 120)


def test_lay_out__wraps_wide_columns_aligns_numbers_and_leaves_out_empty_ones() -> None:
    columns = [
        TextColumn("NAME", ["a", "b"]),
        TextColumn("MAKER", ["", ""], 3),
        TextColumn("WHAT", ["one two three four five", "短い名前"], wraps=True),
        TextColumn("FLOWS", ["1,000", "9"], 1, is_number=True),
        TextColumn("MORE", ["x" * 40, "y"], 2),
    ]
    lines, left_out = lay_out(columns, 26)
    assert left_out == ["MORE"]
    assert lines == [
        "NAME  WHAT           FLOWS",
        "a     one two three  1,000",
        "      four five",
        "b     短い名前           9",
    ]
    assert lay_out(columns, 0)[1] == []
    assert max(map(display_width, lay_out(columns, 0)[0])) > 70


@pytest.mark.parametrize("width", [1, 3, 8])
def test_wrap__keeps_every_word_within_the_width(width: int) -> None:
    text = "a longerword and 短い ones"
    lines = wrap(text, max(width, 2))
    assert max(map(display_width, lines)) <= max(width, 2)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_progress__says_that_long_work_still_runs_and_nothing_of_quick_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress("quick"):
        pass
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    with progress.progress("reading captures"):
        time.sleep(0.2)
    output = capsys.readouterr()
    assert output.err.startswith("reading captures: 0 s\n")
    assert not output.out
