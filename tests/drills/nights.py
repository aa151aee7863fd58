"""nights.py [--nights 10] [--seed 1]: nightly runs in a row, each with a random fault; the tables at the end.

Small captures of one site become splits, flows and a census for one date after the other, and a dataset at the end;
once without faults, then again with one on every date: captures that are cut, grow, are replaced, vanish, come late or
are poisoned, a tracking server that is away, processes that are killed, two runs of a date at the same time, an earlier
date done again. A run that a fault stops must report it in one line and leave the tables as they were; the next run
must complete them. In the end every table must equal that of the runs without faults. Prints one line of JSON, and ends
with 1 if something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import io
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # for tests, which know this folder by no name
from kill import content, descendants, left_over, pids

TABLES = ("splits", "flows", "census", "datasets")
FIRST = datetime(2026, 1, 10, tzinfo=UTC)
_DEVICES = 6
_IPV4, _TCP, _UDP = b"\x08\x00", 6, 17
_SYN, _SYN_ACK, _ACK = 2, 18, 16
_PCAP = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


class Answer(NamedTuple):
    """The result of a step: its exit code and the lines of its error."""

    code: int
    errors: list[str]


def mac(device: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, device + 1])


def frame(device: int, port: int, length: int, flags: int, *, sent: bool) -> bytes:
    """Ethernet, IPv4 and TCP (UDP for each third device) with ``length`` bytes of zeros, from the device or to it."""
    ports = (port, 443) if sent else (443, port)
    if device % 3:
        protocol, above = _TCP, struct.pack(">HHIIBBHHH", *ports, 0, 0, 5 << 4, flags, 1000 * (device + 1), 0, 0)
    else:
        protocol, above = _UDP, struct.pack(">HHHH", *ports, 8 + length, 0)
    above += bytes(length)
    ends = [bytes([10, 0, 0, device + 1]), bytes([192, 0, 2, 1])]
    macs = [mac(device), bytes([2, 0, 0, 0, 9, 9])]
    if not sent:
        ends, macs = ends[::-1], macs[::-1]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(above), 0, 0, 64, protocol, 0)
    return macs[1] + macs[0] + _IPV4 + header + ends[0] + ends[1] + above


def pcap(packets: Sequence[tuple[float, bytes]]) -> bytes:
    """A capture of frames and their times, in seconds."""
    records = [
        struct.pack("<IIII", int(when), round(when % 1 * 1e6), len(data), len(data)) + data for when, data in packets
    ]
    return _PCAP + b"".join(records)


def write_night(folder: Path, day: str, seed: int) -> None:
    """Three captures around midnight, of six devices that differ in length and window."""
    dice = random.Random(f"{seed} {day}")
    begins = datetime.fromisoformat(f"{day}T18:00:00+00:00").timestamp()
    packets = []
    for _ in range(240):
        device, port = dice.randrange(_DEVICES), dice.randrange(32768, 61000)
        when, flags = begins + dice.uniform(0, 6.5 * 3600), [_SYN, _SYN_ACK]
        for number in range(dice.randint(3, 9)):
            length = 40 * (device + 1) + (dice.randrange(30) if number > 2 else 0)
            flag = flags[number] if number < len(flags) else _ACK
            packets.append((round(when, 6), frame(device, port, length, flag, sent=number % 2 == 0)))
            when += dice.choice([0.01, 0.4, 30])
    packets.sort()
    third = len(packets) // 3
    folder.mkdir(parents=True)
    (folder / "a.pcap").write_bytes(pcap(packets[:third]))
    (folder / "b.pcap").write_bytes(pcap(packets[third : 2 * third]))
    (folder / "c.pcap.gz").write_bytes(gzip.compress(pcap(packets[2 * third :]), mtime=0))


def ask(step: str, layers: Sequence[str], *arguments: str) -> Answer:
    """Do a step in this process, by its command line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(f"iotid.cli.{step}").main.main([*layers, *arguments], prog_name=step)
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, [line for line in said.getvalue().splitlines() if line.startswith("Error: ")])


class Nights:
    """Nights below ``folder``: captures that can be damaged and restored, and tables below ``root``.

    Without ``tracking``, the address of a server with a champion, no census is taken.
    """

    def __init__(self, folder: Path, root: Path, seed: int, tracking: str = "") -> None:
        self.root = root
        self.dice = random.Random(seed)
        self._folder, self._seed, self._tracking = folder, seed, tracking

    @staticmethod
    def day(number: int) -> str:
        return (FIRST + timedelta(days=number)).date().isoformat()

    def captures(self, day: str) -> Path:
        return self._folder / "captures" / "home" / day

    def restore(self, day: str) -> None:
        """The undamaged captures."""
        whole = self._folder / "whole" / day
        if not whole.exists():
            write_night(whole, day, self._seed)
        shutil.rmtree(self.captures(day), ignore_errors=True)
        shutil.copytree(whole, self.captures(day))

    def step(self, name: str, day: str, *settings: str) -> Answer:
        night = ["--site", "home", "--date", day]
        captures = ["--captures", str(self.captures(day))] if name == "split_pcaps" else []
        return ask(name, self.layers(*settings), *captures, *night)

    def run(self, day: str) -> Answer:
        """All steps of a nightly run, up to the first that fails."""
        for name in ("split_pcaps", "assemble_flows", *["take_census"] * bool(self._tracking)):
            answer = self.step(name, day)
            if answer.code:
                break
        return answer

    def write_dataset(self, days: Sequence[str], root: str = "") -> Answer:
        dates = [part for day in days for part in ("--date", day)]
        labels = self._folder / "devices.yaml"
        listed = [{"name": f"device-{n}", "mac": mac(n).hex(":")} for n in range(_DEVICES)]
        labels.write_text(json.dumps({"devices": listed}))  # JSON is YAML, too
        named = ["--labels", str(labels), "--dataset", "all"]
        layers = self.layers("dataset.protocol=random_flow", f"storage.root={root or self.root}")
        return ask("write_dataset", layers, "--site", "home", *dates, *named)

    def layers(self, *settings: str) -> list[str]:
        small = [f"storage.root={self.root}", "spark.master=local[2]", "capture.split_bytes=8192"]
        small += ["spark.shuffle_partitions=2", "flow.idle_timeout_s=600"]
        small += [f"tracking.uri={self._tracking}"] * bool(self._tracking)
        return ["--config", "local.yaml", *(part for text in (*small, *settings) for part in ("--set", text))]

    def start(self, day: str) -> subprocess.Popen[bytes]:
        """The steps of a nightly run in a separate process."""
        places = [str(self._folder), str(self.root), str(self._seed), self._tracking, day]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, __file__, "--one", *places], **quiet)

    def stopped(self, step: str, day: str, code: int, words: str, *settings: str) -> list[str]:
        """Run a step that a fault must stop with a one-line error and unchanged tables."""
        before = content(self.root, TABLES)
        answer = self.step(step, day, *settings)
        wrong = [] if content(self.root, TABLES) == before else [f"{step} changed tables"]
        if answer.code != code or len(answer.errors) != 1 or words not in answer.errors[0]:
            wrong.append(f"{step} should end with {code} and {words!r}, and ended with {answer}")
        return wrong

    def goes_on(self, step: str, day: str, *settings: str) -> list[str]:
        """Run a step that a fault must not stop."""
        answer = self.step(step, day, *settings)
        return [f"{step} should go on, and ended with {answer}"] if answer.code else []


Fault = Callable[[Nights, str], list[str]]


def nothing(_: Nights, __: str) -> list[str]:
    return []


def still_written(nights: Nights, day: str) -> list[str]:
    """A capture ends inside a record; it is complete when the run is repeated."""
    _cut(nights.captures(day) / "b.pcap", nights.dice)
    return nights.goes_on("split_pcaps", day) + nights.goes_on("assemble_flows", day)


def grew_after_plan(nights: Nights, day: str) -> list[str]:
    """A capture has grown between the steps: what was planned is read, and no more."""
    _cut(nights.captures(day) / "b.pcap", nights.dice)
    wrong = nights.goes_on("split_pcaps", day) + nights.goes_on("assemble_flows", day)
    planned = content(nights.root, ("flows",))
    nights.restore(day)
    wrong += nights.goes_on("assemble_flows", day)
    return wrong + ([] if content(nights.root, ("flows",)) == planned else ["what grew was read without a plan"])


def replaced_after_plan(nights: Nights, day: str) -> list[str]:
    """Another capture, shorter or with other records, has the name of a planned one."""
    place = nights.captures(day) / "b.pcap"
    wrong = nights.goes_on("split_pcaps", day)
    other = nights.captures(day) / "a.pcap"
    longer = nights.dice.random() < 0.5
    place.write_bytes(_odd(other.read_bytes()) * 2 if longer else other.read_bytes()[: place.stat().st_size // 2])
    return wrong + nights.stopped("assemble_flows", day, 1, "plan it again")


def vanished_after_plan(nights: Nights, day: str) -> list[str]:
    wrong = nights.goes_on("split_pcaps", day)
    (nights.captures(day) / nights.dice.choice(["a.pcap", "c.pcap.gz"])).unlink()
    return wrong + nights.stopped("assemble_flows", day, 1, "was deleted since it was planned")


def site_vanished(nights: Nights, day: str) -> list[str]:
    shutil.rmtree(nights.captures(day))
    return nights.stopped("split_pcaps", day, 2, "there is no such file or folder")


def came_late(nights: Nights, day: str) -> list[str]:
    """The folder exists, but the captures do not."""
    for path in nights.captures(day).iterdir():
        path.unlink()
    return nights.stopped("split_pcaps", day, 2, "holds no capture")


def poisoned(nights: Nights, day: str) -> list[str]:
    """Captures of random bytes, broken lengths and a cut gzip stream are among the intact ones."""
    folder, random_bytes = nights.captures(day), nights.dice.randbytes(20_000)
    (folder / "d.pcap").write_bytes(_PCAP + random_bytes)
    (folder / "e.pcap").write_bytes(_PCAP + b"\xff" * 5_000)
    (folder / "f.pcap.gz").write_bytes(gzip.compress(_PCAP + random_bytes)[:10_000])
    (folder / "g.pcapng").write_bytes(b"\x0a\x0d\x0d\x0a" + struct.pack("<I", 28) + b"\x4d\x3c\x2b\x1a" + random_bytes)
    return nights.goes_on("split_pcaps", day) + nights.goes_on("assemble_flows", day)


def unreadable(nights: Nights, day: str) -> list[str]:
    (nights.captures(day) / "gone.pcap").symlink_to("nowhere")
    wrong = nights.stopped("split_pcaps", day, 2, "cannot be read")
    return wrong + nights.goes_on("split_pcaps", day, "capture.unreadable=quarantine")


def night_before_again(nights: Nights, day: str) -> list[str]:
    before = (datetime.fromisoformat(day) - timedelta(days=1)).date().isoformat()
    return _same_again(nights, before) if nights.captures(before).exists() else []


def _same_again(nights: Nights, day: str) -> list[str]:
    expected, answer = content(nights.root, TABLES), nights.run(day)
    same = content(nights.root, TABLES) == expected
    return [] if same and not answer.code else [f"{day}, done again, changed tables or ended with {answer}"]


def tracking_away(nights: Nights, day: str) -> list[str]:
    from iotid.tracking import client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    retry_s, client.RETRY_S = client.RETRY_S, 0.2
    try:
        wrong = nights.goes_on("split_pcaps", day) + nights.goes_on("assemble_flows", day)
        return wrong + nights.stopped("take_census", day, 2, "does not answer", f"tracking.uri=http://127.0.0.1:{port}")
    finally:
        client.RETRY_S = retry_s


def killed(nights: Nights, day: str) -> list[str]:
    """SIGKILL at a random moment to the driver, its JVM, a Python worker or all of them."""
    run = nights.start(day)
    time.sleep(nights.dice.uniform(2, 12))
    for pid in pids(run.pid, nights.dice.choice(["driver", "jvm", "worker", "all"])):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in descendants(run.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    run.wait(timeout=300)
    return []


def started_twice(nights: Nights, day: str) -> list[str]:
    runs = [nights.start(day)]
    time.sleep(nights.dice.uniform(0, 3))
    runs.append(nights.start(day))
    codes = [run.wait(timeout=300) for run in runs]
    return [] if 0 in codes and set(codes) <= {0, 1} else [f"two runs at once ended with {codes}"]


IN_PLACE: tuple[Fault, ...] = (
    still_written, grew_after_plan, replaced_after_plan, vanished_after_plan, site_vanished, came_late, poisoned,
    unreadable, night_before_again,
)  # fmt: skip
FAULTS: tuple[Fault, ...] = (*IN_PLACE, tracking_away, killed, started_twice)


def _cut(path: Path, dice: random.Random) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: dice.randrange(len(whole) // 2, len(whole)) | 1])


def _odd(capture: bytes) -> bytes:
    """The capture with a record of odd length before the others, so that no record starts at the same offset."""
    return _PCAP + struct.pack("<IIII", 0, 0, 61, 61) + bytes(61) + capture[len(_PCAP) :]


def _learn(folder: Path, seed: int) -> str:
    """A champion, learned from the first night; the address of its registry."""
    from iotid.config import load_settings
    from iotid.tracking import Registry

    nights = Nights(folder, folder / "learned", seed)
    nights.restore(nights.day(0))
    small = ["training.epochs=2", "training.ranks=1", "model.embedding_size=8", "model.hidden_size=8"]
    small += ["evaluation.baselines=[]", "evaluation.bootstrap=20", "promotion.min_macro_f1=0"]
    answers = [nights.run(nights.day(0)), nights.write_dataset([nights.day(0)])]
    answers += [ask(step, nights.layers(*small), "--dataset", "all") for step in ("train", "evaluate", "promote")]
    if any(answer.code for answer in answers):
        raise SystemExit(f"nights.py: no champion could be learned: {answers}")
    return str(Registry(load_settings().tracking, str(nights.root)).uri)


def run(count: int, seed: int) -> dict[str, object]:
    """So many nights without faults and with them; what was found."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracking = _learn(folder, seed)
        calm, hurt = (Nights(folder, folder / root, seed, tracking) for root in ("calm", "hurt"))
        days = [calm.day(number) for number in range(count)]
        for day in days:
            calm.restore(day)
            if calm.run(day).code:
                raise SystemExit(f"nights.py: the undisturbed run of {day} failed")
        calm.write_dataset(days)
        for day in days:
            shutil.rmtree(calm.captures(day))
        drawn: list[Fault] = []
        wrong = []
        for day in days:
            drawn.append(hurt.dice.choice([fault for fault in FAULTS if fault not in drawn[-len(FAULTS) + 1 :]]))
            hurt.restore(day)
            found = drawn[-1](hurt, day)
            hurt.restore(day)
            again = hurt.run(day)
            found += [f"the run after it ended with {again}"] * bool(again.code)
            sys.stderr.write(f"{day} {drawn[-1].__name__}: {found or 'as it must be'}\n")
            wrong += [f"{day} {drawn[-1].__name__}: {text}" for text in found]
        hurt.write_dataset(days)
        expected, found_at_end = content(calm.root, TABLES), content(hurt.root, TABLES)
        places = sorted(expected.keys() | found_at_end.keys())
        wrong += [f"{place}: differs" for place in places if expected.get(place) != found_at_end.get(place)]
        wrong += [f"{path} is left over" for path in left_over(hurt.root)]
    faults = Counter(fault.__name__ for fault in drawn)
    seconds = round(time.monotonic() - begin, 1)
    return {"nights": count, "seed": seed, "seconds": seconds, "faults": faults, "tables": len(places), "wrong": wrong}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nights", type=int, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--one", nargs=5, help=argparse.SUPPRESS)  # a process of its own, which may be killed
    given = options.parse_args()
    if given.one:
        folder, root, seed, tracking, day = given.one
        raise SystemExit(Nights(Path(folder), Path(root), int(seed), tracking).run(day).code)
    found = run(given.nights, given.seed)
    sys.stdout.write(json.dumps(found) + "\n")
    raise SystemExit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
