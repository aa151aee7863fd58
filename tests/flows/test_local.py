"""``from_captures``: flows without Spark."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iotid import config, schemas
from iotid.capture import counters, read_packets
from iotid.capture.file_split import FileSplit
from iotid.errors import AccountingError, InputError, SettingError
from iotid.flows import from_captures, local
from iotid.flows.local import check_accounting

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures are cut for as many cores, whatever the machine has."""
    monkeypatch.setattr(local, "cores", lambda: 7)


def in_pieces(dice: random.Random) -> config.Capture:
    """Settings that cut captures into many splits, and splits into several tasks and many chunks."""
    capture = config.load_settings().capture
    sizes = {"split_bytes": dice.randint(4096, 40_000), "chunk_bytes": dice.randint(4096, 16_384), "task_bytes": 4096}
    return capture.model_copy(update=sizes)


def stored(table: pa.Table) -> list[Row]:
    return table.select(schemas.FLOWS.arrow_schema(stored=True).names).to_pylist()


def with_data(packets: pa.Table, reference: ModuleType) -> list[Row]:
    return [packet | {"data": reference.data_of(packet)} for packet in packets.to_pylist()]


def write_captures(folder: Path, seed: int, count: int, random_rows: Any, write_pcap: Any) -> list[str]:
    paths = [str(folder / name) for name in ("a.pcap", "b.pcap", "c.pcap")]
    rows = [row for row in random_rows(seed, count, paths) if ":" not in row["source_ip"]]
    for path in paths:
        write_pcap(Path(path), [row for row in rows if row["capture_file"] == path])
    return paths


@pytest.mark.parametrize("seed", [2, 5, 8, 11, 14])
def test_from_captures__cut_into_pieces_gives_the_references_flows(
    seed: int, tmp_path: Path, random_rows: Any, write_pcap: Callable[..., None], reference: ModuleType
) -> None:
    dice = random.Random(seed)
    paths = write_captures(tmp_path, seed, 900, random_rows, write_pcap)
    rule = {
        "max_packets": dice.choice([1, 4, 32]),
        "idle_timeout_s": dice.choice([None, 10]),
        "active_timeout_s": dice.choice([None, 25]),
        "length": dice.choice(["ip", "frame"]),
        "join_files": dice.random() < 0.7,
        "keep_bytes": dice.choice([0, 21, 64]),
        "header_fields": dice.random() < 0.5,
    }
    rule["keep_packets"] = min(rule["max_packets"], 3)
    table = from_captures(tmp_path, capture=in_pieces(dice), **rule)
    assert stored(table) == reference.flows(with_data(read_packets(paths), reference), paths, **rule)
    assert table.schema.equals(schemas.FLOWS.arrow_schema())


@pytest.mark.parametrize(
    ("sizes", "num_cores", "tasks"),
    [
        ([100] * 8, 2, [4, 4]),
        ([100, 100, 100, 900], 2, [3, 1]),
        ([900, 1, 1, 1], 4, [1, 3]),
        ([100] * 8, 1, [8]),
        ([10, 10, 10], 8, [3]),  # less than task_bytes
        ([100] * 3, 8, [1, 1, 1]),
        ([0, 0], 2, [2]),
        ([], 2, []),
    ],
)
def test_split_evenly__gives_each_core_consecutive_splits(
    sizes: list[int], num_cores: int, tasks: list[int], settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "cores", lambda: num_cores)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    splits = [
        FileSplit(0, "a", sum(sizes), "pcap", "none", i, start, start + size, 0, "{}", -1)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    found = local._split_evenly(splits, settings.capture.model_copy(update={"task_bytes": 50}))
    assert [split for task in found for split in task] == splits
    assert [len(task) for task in found] == tasks


def test_from_captures__of_a_small_capture_loads_no_pandas(tmp_path: Path, random_rows: Any, write_pcap: Any) -> None:
    write_captures(tmp_path, 5, 300, random_rows, write_pcap)
    code = (
        "import sys; from iotid.flows import from_captures; flows = from_captures(sys.argv[1]); "
        "print('pandas' in sys.modules, flows['first_seen'][0].as_py().date() == flows['capture_date'][0].as_py())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_from_captures__every_packet_is_in_a_flow_or_counted(tmp_path: Path, random_rows: Any, write_pcap: Any) -> None:
    write_captures(tmp_path, 5, 300, random_rows, write_pcap)
    table = from_captures(tmp_path)
    counted = counters(table)
    in_flows = pc.sum(table["client_packets"]).as_py() + pc.sum(table["server_packets"]).as_py()
    assert in_flows == sum(row["packets"] for row in counted.to_pylist() if row["reason"] == "flow") > 0


def test_from_captures__date_is_that_of_the_earliest_packet_unless_given(
    tmp_path: Path, random_rows: Any, write_pcap: Any
) -> None:
    row = random_rows(0, 1, ["a.pcap"])[0] | {"source_ip": "10.0.0.1", "destination_ip": "10.0.0.2"}
    times = [datetime(2024, 3, 1, 0, 0, 1, tzinfo=UTC), datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)]
    write_pcap(tmp_path / "a.pcap", [row | {"timestamp": time, "source_port": time.second} for time in times])
    assert from_captures(tmp_path)["capture_date"].to_pylist() == [date(2024, 2, 29)] * 2
    given = from_captures(tmp_path, capture_date=date(2024, 3, 7), site="north")
    assert set(given["capture_date"].to_pylist()) == {date(2024, 3, 7)}
    assert set(given["site"].to_pylist()) == {"north"}


def test_from_captures__order_and_repetition_of_paths_change_nothing(
    tmp_path: Path, random_rows: Any, write_pcap: Any
) -> None:
    paths = write_captures(tmp_path, 8, 200, random_rows, write_pcap)
    assert from_captures([*reversed(paths), tmp_path]).equals(from_captures(tmp_path))


def test_from_captures__capture_without_packets_gives_no_flows(tmp_path: Path, write_pcap: Any) -> None:
    write_pcap(tmp_path / "empty.pcap", [])
    assert len(from_captures(tmp_path / "empty.pcap")) == 0


def test_from_captures__names_the_setting_that_is_out_of_range(tmp_path: Path, write_pcap: Any) -> None:
    write_pcap(tmp_path / "empty.pcap", [])
    with pytest.raises(SettingError, match=r"flow\.max_packets: .*got 0"):
        from_captures(tmp_path, max_packets=0)
    with pytest.raises(SettingError, match=r"flow: keep_packets must be at most max_packets \(4\) .* got 10"):
        from_captures(tmp_path, max_packets=4, keep_bytes=1)
    with pytest.raises(InputError, match="nowhere"):
        from_captures(tmp_path / "nowhere")


def test_accounting__a_packet_too_few_or_too_many_is_an_error() -> None:
    check_accounting(3, 3)
    with pytest.raises(AccountingError, match="4 packets were decoded for flows, 3 are in them"):
        check_accounting(3, 4)


@pytest.mark.captures
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folder", ["aalto", "lsif"])
def test_from_captures__real_captures_cut_at_random_give_what_one_piece_gives(
    folder: str, seed: int, captures: Path
) -> None:
    dice = random.Random(seed)
    files = sorted(str(path) for path in (captures / folder).rglob("*.pcap"))
    some = dice.sample(files, 12)
    rule = [
        {},
        {"idle_timeout_s": 30, "active_timeout_s": 90, "keep_bytes": 99, "header_fields": True},
        {"active_timeout_s": 600, "join_files": False},
    ][seed]
    assert from_captures(some, capture=in_pieces(dice), **rule).equals(from_captures(some, **rule))


@pytest.mark.captures
@pytest.mark.parametrize("folder", ["aalto/HueBridge", "lsif/Tenvis_Cam"])
def test_from_captures__real_captures_give_the_references_flows(
    folder: str, captures: Path, reference: ModuleType
) -> None:
    files = sorted(str(path) for path in (captures / folder).rglob("*.pcap"))[:4]
    packets = with_data(read_packets(files), reference)
    cut: dict[str, Any] = {"idle_timeout_s": 5, "active_timeout_s": 20, "length": "frame"}
    for rule in ({"keep_bytes": 250}, cut | {"header_fields": True}):
        assert stored(from_captures(files, **rule)) == reference.flows(packets, files, **rule)


@pytest.mark.captures
def test_from_captures__counts_the_flows_of_the_public_sets(captures: Path) -> None:
    """TCP and UDP flows without time-out, per capture file: as many as distinct 5-tuples in the packets."""
    for folder, expected in (("aalto", 11_288), ("lsif", 51_086)):
        flows = from_captures(captures / folder, tcp_close=False, join_files=False)
        assert pc.sum(pc.is_in(flows["protocol"], pa.array([6, 17], pa.int32()))).as_py() == expected
