"""households.py --captures DIR --labels FILE: households written as captures, through every step to the census.

A quarter of each device's captures is held out. Each household merges held-out captures of --sizes kinds: one MAC and
one address replace those of all its devices, as behind a router, and its packets are in time order. `iotid run` learns
from the other captures; then split-pcaps, assemble-flows and take-census run on the households. Captures are classic
pcap of Ethernet, one folder for each device. Prints exact sets, precision and recall for
each size, which kinds were missed, and ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from iotid.cli.pipeline import SiteCaptures, run_pipeline, run_steps
from iotid.config import load_settings
from iotid.labels import DeviceList
from iotid.labels.devices import device_kind
from iotid.partitions import PartitionKey, Store

_LEARNED, _ASKED = ("laboratory", "2023-01-01"), ("households", "2023-11-14")
_BEGIN = 1_700_000_000  # seconds since 1970 UTC: first packet of every household
_SETTINGS = (
    "flow.join_files=false", "training.epochs=2", "promotion.min_macro_f1=0", "evaluation.bootstrap=0",
    "evaluation.baselines=[majority_sequence]",
)  # fmt: skip # the census uses the device model alone, so two epochs of the network are enough
_Packet = tuple[int, int, bytearray]  # seconds, fraction in the file's unit, frame


def packets(path: Path) -> Iterator[_Packet]:
    content = path.read_bytes()
    order = "<" if content[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(content):
        seconds, fraction, kept, _ = struct.unpack_from(f"{order}4I", content, at)
        yield seconds, fraction, bytearray(content[at + 16 : at + 16 + kept])
        at += 16 + kept


def behind_router(captured: list[_Packet], device: bytes, mac: bytes, address: bytes) -> Iterator[_Packet]:
    """The packets with the router's MAC and IPv4 address in place of the device's, beginning at _BEGIN."""
    is_ip = [frame[12:14] == b"\x08\x00" for *_, frame in captured]
    own = {bytes(frame[26:30]) for (*_, frame), ip in zip(captured, is_ip, strict=True) if ip and frame[6:12] == device}
    own -= {bytes(4)}
    first = captured[0][0] if captured else 0
    for (seconds, fraction, frame), ip in zip(captured, is_ip, strict=True):
        for at in (0, 6):
            if frame[at : at + 6] == device:
                frame[at : at + 6] = mac
        for at in (26, 30) if ip else ():
            if bytes(frame[at : at + 4]) in own:
                frame[at : at + 4] = address
        yield _BEGIN + seconds - first, fraction, frame


def write(path: Path, household: list[_Packet]) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for seconds, fraction, frame in sorted(household, key=lambda packet: packet[:2]):
            file.write(struct.pack("<4I", seconds, fraction, len(frame), len(frame)) + frame)


def make(folder: Path, captures: Path, devices: DeviceList, given: argparse.Namespace) -> dict[str, list[str]]:
    """Write captures to learn from, and households, below ``folder``; each household's MAC -> its kinds."""
    chance = random.Random(given.seed)
    by_name = {device.name: device for device in devices.devices if device.mac}
    held_out: dict[str, list[Path]] = defaultdict(list)
    for source in sorted(path for path in captures.iterdir() if path.is_dir()):
        found = sorted(source.glob("*.pcap"))
        chance.shuffle(found)
        kept = max(1, len(found) // 4)
        (folder / "learned" / source.name).mkdir(parents=True)
        for path in found[kept:]:
            shutil.copy(path, folder / "learned" / source.name / path.name)
        if device := by_name.get(source.name):
            held_out[device_kind(device.model, {"vendor": device.vendor, "type": device.type})] += found[:kept]
    (folder / "asked").mkdir()
    truth: dict[str, list[str]] = {}
    for size in given.sizes:
        for _ in range(given.times):
            number = len(truth).to_bytes(2)
            mac, address = b"\x02\x00\x00\x09" + number, b"\x0a\x4d" + number
            kinds = chance.sample(sorted(held_out), size)
            household: list[_Packet] = []
            for kind in kinds:
                path = chance.choice(held_out[kind])
                device_mac = bytes.fromhex(by_name[path.parent.name].mac[0].replace(":", ""))
                household += behind_router(list(packets(path)), device_mac, mac, address)
            write(folder / "asked" / f"{len(truth)}.pcap", household)
            truth[mac.hex(":")] = kinds
    return truth


def score(rows: dict[str, dict[str, Any]], truth: dict[str, list[str]]) -> dict[str, Any]:
    """Shares for each size of household; for each kind, missed and total."""
    sizes: dict[int, list[tuple[bool, int, int, int]]] = defaultdict(list)
    missed, there = Counter[str](), Counter[str]()
    for mac, kinds in truth.items():
        found = {kind["kind"] for kind in rows[mac]["kinds"]} if mac in rows else set()
        sizes[len(kinds)].append((found == set(kinds), len(found & set(kinds)), len(found), len(kinds)))
        there.update(kinds)
        missed.update(set(kinds) - found)
    shares: dict[str, Any] = {}
    for size, each in sorted(sizes.items()):
        exact, right, said, real = (sum(column) for column in zip(*each, strict=True))
        shares[str(size)] = {
            "households": len(each),
            "exact": round(exact / len(each), 4),
            "precision": round(right / said, 4) if said else None,
            "recall": round(right / real, 4),
        }
    return {"sizes": shares, "missed": {kind: [count, there[kind]] for kind, count in sorted(missed.items())}}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--captures", required=True, type=Path, help="one folder for each device, named as in the list"
    )
    options.add_argument("--labels", required=True)
    options.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 5, 8])
    options.add_argument("--times", type=int, default=25, help="households of each size (default 25)")
    options.add_argument("--seed", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        truth = make(folder, given.captures, DeviceList.read(given.labels), given)
        settings = load_settings(["local.yaml"], [f"storage.root={folder / 'root'}", *_SETTINGS])
        learned = SiteCaptures(*_LEARNED, str(folder / "learned"))
        run_pipeline(settings, [learned], [learned], [given.labels], "learned")
        asked = SiteCaptures(*_ASKED, str(folder / "asked"))
        split = ("split-pcaps", {"captures": asked.captures, **asked.key})
        run_steps([split, ("assemble-flows", asked.key), ("take-census", asked.key)], settings)
        census = Store(str(folder / "root")).open("census", PartitionKey.of_date(_ASKED[0], _ASKED[1]))
        table = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)
        result = score({row["device_id"]: row for row in table.to_pylist()}, truth)
    for size, shares in result["sizes"].items():
        sys.stdout.write(f"{size} kinds: {shares}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
