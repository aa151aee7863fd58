"""`iotid reproduce` on synthetic captures with the paper's names and MACs, and known flows."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from iotid.capture import read_packets
from iotid.cli import reproduce
from iotid.simulate.frames import CaptureFile, Clock, Host, Network, Packet, Stack, TcpConversation, random_payload
from iotid.studies import paper
from iotid.studies.paper_comparison import ACTIVE_S, IDLE_S, PROTOCOLS

SHORT_S, LONG_S, STEADY_S = 0.2, 200.0, 66.0  # pauses, up to half as long again: STEADY_S never ends a flow
CLOUD = Host("14:cc:20:51:33:ea", "203.0.113.9", "2001:db8::9", wired=True)
STACK = Stack(False, 8192, 8192, 1)
TINY = [
    "spark.shuffle_partitions=2", "model.embedding_size=8", "model.hidden_size=8", "model.layers=1",
    "training.epochs=2", "training.ranks=1", "training.device=cpu", "flow.max_packets=6", "dataset.min_flows=5",
    "evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=0",
]  # fmt: skip


class Testbed:
    """Daily captures of the devices of a list, each with its own lengths and numbers of flows."""

    __test__ = False  # pytest takes the name for a test's

    def __init__(self, dataset: str, devices: Sequence[str]) -> None:
        macs = {device.name: device.mac[0] for device in paper.device_list(dataset).devices}
        self._hosts = [Host(macs.get(name, name), f"192.168.1.{i}", "::1") for i, name in enumerate(devices, start=20)]
        self._network, self._rng = Network(), random.Random(1)
        self._after_midnight: list[Packet] = []

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        day = datetime.strptime(path.name.split(".")[0], "%y-%m-%d").replace(tzinfo=UTC)
        packets = [packet for number in range(len(self._hosts)) for packet in self._device(number, day)]
        packets, ends_ns = sorted([*packets, *self._after_midnight]), (int(day.timestamp()) + 86400) * 10**9
        self._after_midnight = [packet for packet in packets if packet.time_ns >= ends_ns]
        CaptureFile(path.name).write(path.parent, packets[: len(packets) - len(self._after_midnight)])

    def _device(self, number: int, day: datetime) -> Iterator[Packet]:
        begins_ns = (int(day.timestamp()) + 3600) * 10**9
        port = 10000 + 100 * day.day
        for flow in range(8 + 3 * number):
            yield from self._tcp(number, port + flow, [100 + number, -50], SHORT_S, begins_ns + flow * 10**9)
        for flow in range(5):
            yield from self._udp(number, port + flow, 3, SHORT_S, begins_ns)
        yield from self._tcp(number, 9000, [90, -60], SHORT_S, begins_ns)  # the same 5-tuple every day
        before_midnight_ns = begins_ns + 82799 * 10**9
        yield from self._tcp(number, port + 51, [90, -60] * 5, SHORT_S, before_midnight_ns)
        yield from self._tcp(number, port + 50, [80, -70], LONG_S, begins_ns)
        yield from self._udp(number, port + 50, 60, STEADY_S, begins_ns)

    def _tcp(self, number: int, port: int, turns: list[int], pause_s: float, at_ns: int) -> Iterator[Packet]:
        ends, clock = (self._hosts[number], CLOUD), Clock(at_ns, pause_s, self._rng)
        yield from TcpConversation(self._network, ends, (port, 443), (STACK, STACK), clock).packets(turns, "fin")

    def _udp(self, number: int, port: int, count: int, pause_s: float, at_ns: int) -> Iterator[Packet]:
        messages = [(side % 2, random_payload(40, self._rng)) for side in range(count)]
        ends, clock = (self._hosts[number], CLOUD), Clock(at_ns, pause_s, self._rng)
        yield from self._network.udp(ends, (port, 123), messages, clock)


def _counted(captures: Path, dataset: str) -> list[dict[str, int]]:
    """Device -> flows of each variant, counted from packets: the times of every 5-tuple, divided at gaps."""
    devices = paper.read(dataset).counts.select(paper.device_list(dataset)).devices
    named = {device.mac[0]: device.name for device in devices}
    packets = read_packets([str(captures)]).to_pylist()
    readings = []
    for timeouts in (False, True):
        for joined in (True, False):
            times: dict[Any, list[float]] = defaultdict(list)
            for packet in packets:
                device = named.get(packet["source_mac"]) or named.get(packet["destination_mac"])
                ends = [(packet[f"{end}_ip"], packet[f"{end}_port"]) for end in ("source", "destination")]
                file = "" if joined else packet["capture_file"]
                times[device, packet["protocol"], file, *sorted(ends)].append(packet["timestamp"].timestamp())
            for protocols in PROTOCOLS.values():
                flows = Counter[str]()
                for (device, protocol, *_), seen in times.items():
                    if device and protocol in protocols:
                        flows[device] += _pieces(sorted(seen)) if timeouts else 1
                readings.append({device.name: flows[device.name] for device in devices})
    return readings


def _pieces(times: Sequence[float]) -> int:
    begun, before, pieces = times[0], times[0], 1
    for at in times[1:]:
        if at - before > IDLE_S or at - begun > ACTIVE_S:
            begun, pieces = at, pieces + 1
        before = at
    return pieces


def _reproduce(dataset: str, captures: Path, root: Path, *further: str) -> dict[str, Any]:
    overrides = [part for text in [f"storage.root={root}", *TINY] for part in ("--set", text)]
    asked = ["--dataset", dataset, "--captures", str(captures), *overrides, *further]
    reproduce.main.main(asked, standalone_mode=False)
    folder = root / "reproductions" / f"dataset={dataset}"
    return {**json.loads((folder / "reproduction.json").read_text()), "page": (folder / "reproduction.md").read_text()}


def test_datasets__those_of_the_command_are_those_of_the_tables() -> None:
    (option,) = [each for each in reproduce.main.params if each.name == "dataset"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == paper.DATASETS


@pytest.mark.spark
def test_reproduce__counts_every_variant_trains_and_repeats_nothing(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captures = tmp_path / "captures"
    known = ["HP Printer", "iHome", "Triby Speaker"]
    testbed = Testbed("tmc18", [*known, "Smart Things", "02:00:00:00:00:07"])  # one that the paper lacks, one unknown
    for day in ("16-09-23.pcap", "16-09-24.pcap"):
        testbed.write(captures / day)
    found = _reproduce("tmc18", captures, tmp_path / "root")

    expected = _counted(captures, "tmc18")
    assert [each["flows"] for each in found["readings"]] == expected
    totals = [sum(flows.values()) for flows in expected]
    assert len(set(totals)) == 8, "every reading differs in this stand-in"
    assert all(flows["iHome"] and not flows["Amazon Echo"] for flows in expected)
    table = [line for line in found["page"].splitlines() if line.startswith(("| no time-outs |", "| time-outs |"))]
    rows = [line for line in table if not line.endswith("largest differences |")]
    assert [row.split(" | ")[3] for row in rows] == [f"{total:,}" for total in totals]
    printed = {row.device: row.flows for row in paper.read("tmc18").counts.of_devices}
    distances = [sum(abs(flows[device] - printed[device]) for device in printed) for flows in expected]
    best = distances.index(min(distances))
    assert found["nearest"] == found["readings"][best]["reading"]
    assert found["readings"][best]["difference"] == totals[best] - 144446

    (scores,) = found["scores"]
    assert scores["labels"] == sorted(known)
    assert sum(part["flows"] for part in scores["dataset"]["parts"].values()) == totals[best]
    assert set(scores["systems"]) == {"challenger", "majority_sequence"}
    ours = f"{scores['systems']['challenger']['F1']:.2f}"
    (row,) = [line for line in found["page"].splitlines() if line.startswith("| Our method = challenger")]
    assert row.endswith(f"| 94.61 | {ours} |")
    assert "99.97 [1]" in row
    assert row in capsys.readouterr().out.splitlines()

    def never(*_: Any) -> None:
        raise AssertionError("all of it was there")

    for step in ("write_splits", "write_flows", "write_dataset", "train", "evaluate_challenger"):
        monkeypatch.setattr(f"iotid.studies.reproduce.{step}", never)
    again = _reproduce("tmc18", captures, tmp_path / "root")
    assert again == found
    with pytest.raises(AssertionError, match="all of it was there"):
        _reproduce("tmc18", captures, tmp_path / "root", "--set", "training.epochs=3")


@pytest.mark.spark
def test_reproduce__captures_that_came_later_are_counted_too(spark: Any, tmp_path: Path) -> None:
    captures, root = tmp_path / "captures", tmp_path / "root"
    testbed = Testbed("sosr19", ["Ring Door Bell", "Hello Barbie"])
    testbed.write(captures / "18-10-01.pcapng")
    first = _reproduce("sosr19", captures, root, "--counts-only")
    testbed.write(captures / "18-10-02.pcapng")
    second = _reproduce("sosr19", captures, root, "--counts-only")
    assert second["scores"] == []
    assert [each["flows"] for each in second["readings"]] == _counted(captures, "sosr19")
    assert all(more["total"] > less["total"] for more, less in zip(second["readings"], first["readings"], strict=True))


@pytest.mark.spark
def test_reproduce__captures_of_other_devices_are_refused(spark: Any, tmp_path: Path) -> None:
    Testbed("tmc18", ["02:00:00:00:00:07"]).write(tmp_path / "captures" / "16-09-23.pcap")
    with pytest.raises(
        click.ClickException, match=r"matches none of the flows of --captures; give a folder with only the tw"
    ):
        _reproduce("tmc18", tmp_path / "captures", tmp_path / "root", "--counts-only")
