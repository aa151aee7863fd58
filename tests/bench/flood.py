"""flood.py [--flows N] [--macs N] [--model ROOT --labels FILE]: floods of chosen flows and of forged MACs, and as many
random ones.

Flows: captures of N UDP flows between IPv6 addresses, one packet each. The addresses are random, or chosen: so that all
flows collide in the former hash without a secret (each address undoes the other's effect on the state), to fall into
one bucket under a guessed secret, or in regular patterns. Printed are CPU seconds of `flows.from_captures`, best of
several processes; those of `assemble-flows` on Spark, and the rows of its largest file over the mean; and the largest
bucket over the mean. `before`: a table and buckets with the former hash, on the same keys.

MACs: a census of N of them with two flows each. `honest` ones are copies of listed devices, with two of their flows.
Others are synthetic: `noise` sends UDP of random lengths, `replay` two flows of any devices, `repeat` one flow of a
device twice. Printed are seconds and peak memory of `iotid take-census` with its
children, size of the page, and how many MACs got a kind. The model is the champion below ROOT (storage.root of a run
with its flows of site `bench`, as `census.py --root` leaves it), else one that learns from simulated captures.

Ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import messages
from iotid.cli import command
from iotid.config import load_settings
from iotid.dataset.hashes import mix
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import FLOWS
from iotid.simulate.captures import write_demo
from iotid.spark.shuffle import Buckets
from iotid.tracking import Registry

sys.path.insert(0, str(Path(__file__).parent))
from census import _SETTINGS, _renamed, flows_of_listed, learn
from processes import measured_step

Words = Any  # uint64 (flows,)

_RUNS = 3
_PARTITIONS = 8
_PORTS, _PROTOCOL, _VERSION = (1024, 443), 17, 6
_HIGH = (0x20010DB800000000, 0x20010DB800000001)  # upper halves of the two ends' addresses
_FIRST_S = 1_767_312_000  # 2026-01-02
_NIGHT = PartitionKey.of_date("flood", "2026-01-02")
_FLOWS_PER_MAC = 2  # flows of a MAC
_SMALL = ("training.epochs=1", "evaluation.baselines=[]", "evaluation.bootstrap=20", "promotion.min_macro_f1=0")

_FLOWS = """
import sys, time, iotid.flows as f
f.from_captures(sys.argv[2])
begin = time.process_time()
table = f.from_captures(sys.argv[1])
print(time.process_time() - begin, len(table))
"""


def addresses(kind: str, count: int) -> tuple[Words, Words]:
    """Lower halves of the two ends' addresses of each flow."""
    random = np.random.default_rng(1)
    one_N, other_N = (random.integers(0, 1 << 64, count, np.uint64) for _ in range(2))
    number_N = np.arange(count, dtype=np.uint64)
    if kind == "undone":
        return one_N, _step(_step(np.zeros(1, np.uint64), _first_word()), one_N) ^ np.uint64(1)
    if kind == "guessed":
        return _of_one_bucket(count, random)
    if kind == "neighbours":
        return number_N % np.uint64(512), number_N // np.uint64(512)
    if kind == "opposite":
        return number_N, ~number_N
    return one_N, other_N


KINDS = ("random", "undone", "guessed", "neighbours", "opposite")
NIGHTS = ("honest", "noise", "replay", "repeat")


def _first_word() -> Words:
    kind = _PROTOCOL << 32 | _VERSION << 40
    return np.array([_PORTS[0] | _PORTS[1] << 16 | kind], np.uint64)


def _step(mixed_N: Words, word_N: Words) -> Words:
    """One step of the former hash."""
    mixed_N = (mixed_N ^ word_N) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed_N ^ mixed_N >> np.uint64(29)


def keys_of(one_N: Words, other_N: Words) -> Any:
    """uint64 (flows, 6): the keys of `flows.layout` of these flows."""
    columns = [np.full(len(one_N), value, np.uint64) for value in (_first_word()[0], 0, 0, *_HIGH, 0)]
    columns[1:3] = one_N, other_N
    return np.stack(columns, axis=1)


def _of_one_bucket(count: int, random: np.random.Generator) -> tuple[Words, Words]:
    guess, found, left = Buckets(_PARTITIONS, b"guessed"), [], count
    while left > 0:
        one_N, other_N = (random.integers(0, 1 << 64, 1 << 20, np.uint64) for _ in range(2))
        met = np.flatnonzero(guess.of_hash(guess.hashed(keys_of(one_N, other_N).T)) == 0)
        found.append((one_N[met], other_N[met]))
        left -= len(met)
    one_N, other_N = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    return one_N, other_N


def write_capture(path: Path, one_N: Words, other_N: Words) -> None:
    """A classic pcap of a UDP packet from one end to the other, a millisecond each."""
    head, sent = 16, 14 + 40 + 8
    data = np.zeros((len(one_N), head + sent), np.uint8)
    time_us = np.arange(len(one_N)) * 1000
    words = np.stack([_FIRST_S + time_us // 1_000_000, time_us % 1_000_000], axis=1).astype("<u4")
    data[:, :8] = words.view(np.uint8)
    data[:, 8:16] = np.array([sent, sent], "<u4").view(np.uint8)
    data[:, 16:30] = np.frombuffer(bytes.fromhex("020000000001 020000000002 86dd"), np.uint8)
    data[:, 30:38] = np.frombuffer(bytes.fromhex("60000000 0008 11 40"), np.uint8)
    for begin, high, low_N in ((38, _HIGH[0], one_N), (54, _HIGH[1], other_N)):
        data[:, begin : begin + 8] = np.frombuffer(high.to_bytes(8, "big"), np.uint8)
        data[:, begin + 8 : begin + 16] = low_N.astype(">u8").view(np.uint8).reshape(-1, 8)
    ports = np.array([*_PORTS, 8, 0], ">u2").view(np.uint8)
    data[:, 70:78] = ports
    path.parent.mkdir(parents=True)
    path.write_bytes(np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144, 1], "<u4").tobytes() + data.tobytes())


@numba.njit
def _fill(keys: Any, slots: Any) -> int:
    """The former table: a slot for each key, found by linear probing; all keys differ. Returns its steps."""
    steps = 0
    for row in range(len(keys)):
        mixed = np.uint64(0)
        for word in range(keys.shape[1]):
            mixed = (mixed ^ keys[row, word]) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
        slot = np.int64(mixed & np.uint64(len(slots) - 1))
        while slots[slot] >= 0:
            slot = (slot + 1) & (len(slots) - 1)
            steps += 1
        slots[slot] = row
    return steps


def measure_flows(folder: Path, count: int) -> dict[str, Any]:
    write_capture(folder / "warm" / "a.pcap", *addresses("random", 100))
    found: dict[str, Any] = {}
    for kind in KINDS:
        ends = addresses(kind, count)
        keys = keys_of(*ends)
        write_capture(folder / kind / "a.pcap", *ends)
        slots = np.full(1 << (4 * count).bit_length(), -1, np.int64)
        _fill(keys[:1], slots.copy())
        begin = time.process_time()
        _fill(keys, slots)
        former = (mix(keys.T) >> np.uint64(32)) * np.uint64(16 * _PARTITIONS) >> np.uint64(32)
        found[kind] = {
            "before": {
                "table_cpu_s": round(time.process_time() - begin, 2),
                "largest_bucket": _largest(np.bincount(former.astype(np.int64), minlength=16 * _PARTITIONS)),
            },
            "largest_bucket": _largest(_of_buckets(keys)),
            "cpu_s": round(min(_cpu(folder / kind, folder / "warm") for _ in range(_RUNS)), 2),
            "spark": _on_spark(folder, kind),
        }
    for kind, measured in found.items():
        measured["ratio"] = round(measured["cpu_s"] / found["random"]["cpu_s"], 2)
        measured["spark"]["ratio"] = round(measured["spark"]["cpu_s"] / found["random"]["spark"]["cpu_s"], 2)
        if kind != "random":
            measured["before"]["ratio"] = round(
                measured["before"]["table_cpu_s"] / max(found["random"]["before"]["table_cpu_s"], 0.01), 1
            )
    return found


def _of_buckets(keys: Any) -> Any:
    buckets = Buckets(_PARTITIONS)
    return np.bincount(buckets.of_hash(buckets.hashed(keys.T)), minlength=buckets.number)


def _largest(of_each: Any) -> float:
    return round(float(np.max(of_each) / np.mean(of_each)), 2)


def _cpu(captures: Path, warm: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _FLOWS, str(captures), str(warm)], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[0])


def _on_spark(folder: Path, kind: str) -> dict[str, float]:
    root = folder / f"root-{kind}"
    # a fixed number of partitions, so that all kinds get the same number of reading tasks
    layers = ["--set", f"storage.root={root}", "--set", f"spark.shuffle_partitions={_PARTITIONS}"]
    night = ["--site", _NIGHT["site"], "--date", _NIGHT["capture_date"]]
    measured_step("split-pcaps", "--captures", str(folder / kind), *layers, *night)
    measured = measured_step("assemble-flows", *layers, *night)
    files = sorted(Path(Store(str(root)).open("flows", _NIGHT).uri).glob("part-*.parquet"))
    rows = [pq.read_metadata(path).num_rows for path in files] + [0] * (_PARTITIONS - len(files))
    return {"cpu_s": measured["cpu_s"], "wall_s": measured["wall_s"], "largest_file": _largest(rows)}


def night_of(kind: str, flows: pa.Table, macs: int) -> pa.Table:
    """``macs`` times _EACH flows; ``flows``: of listed devices, with their ``device``."""
    random = np.random.default_rng(2)
    device_N = flows["device"].combine_chunks().dictionary_encode().indices.to_numpy()
    own = [np.flatnonzero(device_N == device) for device in range(device_N.max() + 1)]
    if kind == "honest":
        row_ME = np.stack([random.choice(own[mac % len(own)], _FLOWS_PER_MAC) for mac in range(macs)])
    elif kind == "repeat":
        row_ME = np.repeat(random.integers(0, len(flows), (macs, 1)), _FLOWS_PER_MAC, axis=1)
    else:
        row_ME = random.integers(0, len(flows), (macs, _FLOWS_PER_MAC))
    table = _renamed(flows.take(pa.array(row_ME.ravel())), np.repeat(np.arange(macs), _FLOWS_PER_MAC))
    return _noise(table, random) if kind == "noise" else table


def _noise(flows: pa.Table, random: np.random.Generator) -> pa.Table:
    """The same MACs, each flow a UDP packet of random length that the device sends."""
    count = len(flows)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32))
    length_N = random.integers(28, 1500, count)
    one_each = {
        "packet_length": length_N,
        "payload_length": length_N - 28,
        "direction": np.ones(count),
        "inter_arrival_us": np.zeros(count),
        "tcp_flags": np.zeros(count),
        "tcp_window": np.zeros(count),
    }
    columns = {name: flows[name] for name in flows.column_names}
    for name, values in one_each.items():
        kind = FLOWS.arrow_schema(stored=True).field(name).type
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind.value_type), type=kind)
    columns["protocol"] = pa.array(np.full(count, 17)).cast(flows["protocol"].type)
    columns["answered"] = pa.array(np.ones(count, np.bool_))
    return pa.table(columns, schema=flows.schema)


def measure_census(root: str, labels: str, macs: int, nights: list[str], layers: list[str]) -> dict[str, Any]:
    store = Store(root)
    learned, flows = flows_of_listed(store, labels)
    return {kind: _census_of(store, learned, kind, flows, macs, layers) for kind in nights}


def _census_of(
    store: Store, learned: Partition, kind: str, flows: pa.Table, macs: int, layers: list[str]
) -> dict[str, Any]:
    keys = PartitionKey.of_date(f"flood-{kind}", _NIGHT["capture_date"])
    table = night_of(kind, flows, macs)
    with store.write("flows", keys, FLOWS.version) as staged:
        for number, begin in enumerate(range(0, len(table), 1 << 15)):
            part = table.slice(begin, 1 << 15)
            pq.write_table(part, f"{staged.path}/part-{number}.parquet", filesystem=staged.filesystem)
        staged.metadata |= learned.metadata | {"rows": len(table), "packets": {"flow": 0}}
    measured: dict[str, Any] = measured_step(
        "take-census", *layers, "--site", keys["site"], "--date", keys["capture_date"]
    )
    census = store.open("census", keys)
    rows = pq.read_table(census.uri, columns=["device_id", "status", "kinds"], partitioning=None)
    is_invented = pc.starts_with(rows["device_id"], "02:00:00:")
    is_named = pc.and_(is_invented, pc.greater(pc.list_value_length(rows["kinds"]), 0))
    measured["page_mb"] = round(Path(census.uri, "_census.html").stat().st_size / 1e6, 1)
    measured["macs"], measured["named"] = int(pc.sum(is_invented).as_py()), int(pc.sum(is_named).as_py() or 0)
    measured["status"] = dict(Counter(rows["status"].to_pylist()).most_common())
    return measured


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--flows", type=int, default=120_000)
    options.add_argument("--macs", type=int, default=100_000)
    options.add_argument("--model", metavar="ROOT", help="storage.root with a champion and the flows of site bench")
    options.add_argument("--labels", help="their device list")
    options.add_argument("--no-flows", action="store_true")
    options.add_argument("--nights", nargs="*", choices=NIGHTS, default=NIGHTS, help="censuses to take; empty: none")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    if bool(given.model) != bool(given.labels):
        options.error("--model and --labels go together")
    messages.log_to_stderr()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        if not given.no_flows:
            measured["flows"] = {"flows": given.flows, **measure_flows(made / "flows", given.flows)}
        if given.nights:
            root, labels = given.model or str(made / "root"), given.labels or str(made / "devices.yaml")
            layers = ["--set", f"storage.root={Path(root).absolute()}", *_SETTINGS]
            layers += [part for text in (*_SMALL, *given.overrides) for part in ("--set", text)]
            if not given.model:
                write_demo(made)
            if Registry(load_settings(overrides=layers[1::2]).tracking, root).find_version("champion") is None:
                learn(root, str(made / "captures"), labels, layers)
            measured["census"] = {"macs": given.macs, **measure_census(root, labels, given.macs, given.nights, layers)}
    command.print_lines(json.dumps(measured))


if __name__ == "__main__":
    main()
