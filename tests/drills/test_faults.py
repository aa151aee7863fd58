"""Faults of a nightly run: nothing is lost or doubled, one line reports it, and the next run completes it.

Others stand where what they hurt is tested: killed processes in test_kill.py, a full disk in test_full_disk.py, ranks
in tests/training/test_launch.py, tracking servers in tests/tracking.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.compute as pc
import pytest

from iotid.config import load_settings
from iotid.flows import from_captures, read_flows
from iotid.partitions import PartitionKey, Store

pytestmark = pytest.mark.spark

_FAULTS = ("still_written", "grew_after_plan", "replaced_after_plan", "vanished_after_plan", "site_vanished",
           "came_late", "poisoned", "unreadable", "night_before_again")  # fmt: skip


@pytest.fixture(scope="module")
def drill(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).with_name("nights.py"))


@pytest.fixture(scope="module")
def calm(drill: ModuleType, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two nightly runs without faults."""
    folder = tmp_path_factory.mktemp("nights")
    nights = drill.Nights(folder, folder / "calm", seed=1)
    for day in map(nights.day, range(2)):
        nights.restore(day)
        assert nights.run(day) == (0, [])
    return nights


def _hurt(drill: ModuleType, calm: Any, tmp_path: Path) -> Any:
    """The same, before the second run."""
    shutil.copytree(calm.root, tmp_path / "hurt")
    for table in ("splits", "flows"):
        shutil.rmtree(tmp_path / "hurt" / table / "site=home" / f"capture_date={calm.day(1)}")
    return drill.Nights(calm.captures("").parents[1], tmp_path / "hurt", seed=1)


def test_faults__in_process_faults_are_all_listed(drill: ModuleType) -> None:
    assert tuple(fault.__name__ for fault in drill.IN_PLACE) == _FAULTS


@pytest.mark.parametrize("fault", _FAULTS)
def test_night__repeated_after_a_fault_equals_one_without(
    fault: str, drill: ModuleType, calm: Any, tmp_path: Path
) -> None:
    nights, day = _hurt(drill, calm, tmp_path), calm.day(1)
    try:
        assert getattr(drill, fault)(nights, day) == []
    finally:
        nights.restore(day)
    assert nights.run(day) == (0, [])
    assert drill.content(nights.root) == drill.content(calm.root)
    assert drill.left_over(nights.root) == []


def test_night__damaged_captures_do_not_change_flows_of_intact_ones(
    drill: ModuleType, spark: Any, calm: Any, tmp_path: Path
) -> None:
    nights, day = _hurt(drill, calm, tmp_path), calm.day(1)
    try:
        assert drill.poisoned(nights, day) == []
    finally:
        nights.restore(day)
    found, expected = (_flows(spark, root, day) for root in (nights.root, calm.root))
    of_good = pc.is_in(found["capture_file"], value_set=expected["capture_file"].combine_chunks().unique())
    assert _rows(found.filter(of_good)) == _rows(expected)


def test_night__two_concurrent_runs_leave_one_result_and_the_other_reports_it(
    drill: ModuleType, calm: Any, tmp_path: Path
) -> None:
    nights, day = _hurt(drill, calm, tmp_path), calm.day(1)
    assert nights.step("split_pcaps", day).code == 0
    answers = []
    runs = [threading.Thread(target=lambda: answers.append(nights.step("assemble_flows", day))) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    gave_way = [answer for answer in answers if answer.code]
    assert len(gave_way) < len(runs)
    for answer in gave_way:
        assert answer.code == 1
        assert all("another run has begun to write" in line for line in answer.errors)
    assert drill.content(nights.root) == drill.content(calm.root)
    assert drill.left_over(nights.root) == []


def test_night__clock_going_back_an_hour_gives_the_flows_of_one_reader(
    drill: ModuleType, spark: Any, tmp_path: Path
) -> None:
    nights = drill.Nights(tmp_path, tmp_path / "store", seed=2)
    day = nights.day(0)
    nights.captures(day).mkdir(parents=True)
    start = drill.FIRST.timestamp() + 18 * 3600
    packets = [
        (start + second - 3600 * (second > 400), drill.frame(second % 6, 5000, 100 + second % 7, 16, sent=True))
        for second in range(800)
    ]
    (nights.captures(day) / "a.pcap").write_bytes(drill.pcap(packets))
    assert nights.run(day) == (0, [])
    found = _flows(spark, nights.root, day)
    expected = from_captures(nights.captures(day), idle_timeout_s=600, site="home")
    assert pc.sum(pc.add(found["client_packets"], found["server_packets"])).as_py() == len(packets)
    assert _rows(found) == _rows(expected)
    assert found.num_rows == 12  # six devices, each before and after the jump


def test_night__without_packets_has_complete_empty_tables(drill: ModuleType, spark: Any, tmp_path: Path) -> None:
    nights = drill.Nights(tmp_path, tmp_path / "store", seed=2)
    day = nights.day(0)
    nights.captures(day).mkdir(parents=True)
    (nights.captures(day) / "a.pcap").write_bytes(drill.pcap([]))
    assert nights.run(day) == (0, [])
    assert _flows(spark, nights.root, day).num_rows == 0
    nights.restore(nights.day(1))
    assert nights.run(nights.day(1)) == (0, []), "the night after it takes up what it left open: nothing"
    assert _flows(spark, nights.root, nights.day(1)).num_rows > 100


def test_night__reads_ten_thousand_tiny_captures(drill: ModuleType, spark: Any, tmp_path: Path) -> None:
    nights = drill.Nights(tmp_path, tmp_path / "store", seed=2)
    day, start = nights.day(0), drill.FIRST.timestamp()
    nights.captures(day).mkdir(parents=True)
    for number in range(10_000):
        tiny = drill.pcap([(start + number, drill.frame(1, 1024 + number % 5000, 9, 16, sent=True))])
        (nights.captures(day) / f"{number}.pcap").write_bytes(tiny)
    assert nights.run(day) == (0, [])
    flows = _flows(spark, nights.root, day)
    assert flows.num_rows == 10_000, "5,000 ports, each twice, further apart than the time-out"
    assert pc.sum(flows["client_packets"]).as_py() == 10_000


def test_night__missing_site_does_not_stop_others(drill: ModuleType, calm: Any, tmp_path: Path) -> None:
    nights, day = _hurt(drill, calm, tmp_path), calm.day(1)
    layers = nights.layers()
    gone = drill.ask("assemble_flows", layers, "--site", "gone", "--date", day)
    assert (gone.code, len(gone.errors)) == (2, 1)
    assert "run iotid split-pcaps first" in gone.errors[0]
    assert nights.run(day) == (0, [])
    assert drill.content(nights.root) == drill.content(calm.root)


def _flows(spark: Any, root: Path, day: str) -> Any:
    store = Store(load_settings(overrides=[f"storage.root={root}"]).storage.root)
    return read_flows(spark, [store.open("flows", PartitionKey.of_date("home", day))]).toArrow()


def _rows(flows: Any) -> list[str]:
    return sorted(str(row) for row in flows.drop_columns(["capture_date"]).to_pylist())
