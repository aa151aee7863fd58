"""census.py [--captures DIR --labels FILE] [--flows N] [--devices N]: a large census, and one flow at a time.

A model learns from the captures (4 epochs, else by conf/base.yaml; default: simulated captures). Then their flows are
distributed over many synthetic devices: each is a copy of a listed device with its own MAC and address, and flows drawn
from that device's. --fresh: the share of flows in which one packet gets another length, so that no other flow equals
them. Timed are whole processes: `iotid take-census`, and a baseline that scores every flow with the same model, in
batches of 256, and sums the answers by device; it scores --baseline-flows, from which its time for all flows is
extrapolated. --root: a folder to reuse. Ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config, messages
from iotid.cli import command, steps
from iotid.labels import DeviceList
from iotid.labels.hosts import name_devices
from iotid.labels.owner import Networks, Site
from iotid.model import Predictor
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import FLOWS
from iotid.simulate.captures import write_demo
from iotid.tracking import Registry

_LEARNED, _LARGE = PartitionKey.of_date("bench", "2026-01-01"), PartitionKey.of_date("large", "2026-01-02")
_BATCH = 256
_FILES = 8
_SIDES = ("client", "server")
_SETTINGS = ("--set", "flow.join_files=false", "--set", "training.epochs=4")


def learn(root: str, captures: str, labels: str, layers: list[str]) -> None:
    night = ["--site", _LEARNED["site"], "--date", _LEARNED["capture_date"]]
    dataset = ["--dataset", "bench"]
    for step in (
        ["split-pcaps", "--captures", captures, *night],
        ["assemble-flows", *night],
        ["write-dataset", *night, "--labels", labels, *dataset],
        ["train", *dataset],
        ["evaluate", *dataset],
        ["promote", *dataset],
    ):
        steps.main([*step, *layers], standalone_mode=False)


def flows_of_listed(store: Store, labels: str) -> tuple[Partition, pa.Table]:
    """The learned partition, and its flows of listed devices, with their ``device`` and its ``address``."""
    learned = store.open("flows", _LEARNED)
    flows = pq.read_table(learned.uri, schema=FLOWS.arrow_schema(stored=True), partitioning=None)
    settings = config.load_settings()
    flows = flows.filter(pc.is_in(flows["protocol"], value_set=pa.array(settings.dataset.protocols, pa.int32())))
    number_N = DeviceList.read(labels).match(flows)
    named = name_devices(flows, Site(Networks(settings.census.inside)))
    flows = flows.append_column("device", named.device).append_column("address", named.address)
    is_listed = pc.and_(pc.is_valid(named.device), pa.array(number_N >= 0))
    return learned, flows.filter(is_listed).combine_chunks()


def multiply(store: Store, labels: str, num_flows: int, num_devices: int, fresh: float) -> None:
    """Write the large partition: each synthetic device has flows drawn from those of the device that it copies."""
    learned, flows = flows_of_listed(store, labels)
    device_N = flows["device"].combine_chunks().dictionary_encode().indices.to_numpy()
    random = np.random.default_rng(1)
    rows = [np.flatnonzero(device_N == original) for original in range(device_N.max() + 1)]
    each = num_flows // num_devices
    taken_DF = np.stack([random.choice(rows[copy % len(rows)], each) for copy in range(num_devices)])
    order = random.permutation(num_devices * each)
    row_N, copy_N = taken_DF.ravel()[order], np.repeat(np.arange(num_devices), each)[order]
    with store.write("flows", _LARGE, FLOWS.version) as staged:
        for number, part in enumerate(np.array_split(np.arange(len(order)), _FILES)):
            table = _renamed(flows.take(pa.array(row_N[part])), copy_N[part])
            table = _altered(table, random, fresh)
            pq.write_table(table, f"{staged.path}/part-{number}.parquet", filesystem=staged.filesystem)
        staged.metadata |= learned.metadata | {"rows": len(order), "packets": {"flow": 0}}


def _renamed(flows: pa.Table, copy_N: np.ndarray) -> pa.Table:
    """The flows with the MAC and address of synthetic devices in place of the originals'."""
    text_N = [f"{copy:06x}" for copy in copy_N]
    mac = pa.array([f"02:00:00:{text[:2]}:{text[2:4]}:{text[4:]}" for text in text_N])
    address = pa.array([f"10.{copy >> 16}.{copy >> 8 & 255}.{copy & 255}" for copy in copy_N.tolist()])
    for side in _SIDES:
        is_own = pc.fill_null(pc.equal(flows[f"{side}_ip"], flows["address"]), False)
        for name, value in ((f"{side}_mac", mac), (f"{side}_ip", address)):
            flows = flows.set_column(flows.column_names.index(name), name, pc.if_else(is_own, value, flows[name]))
    return flows.select(FLOWS.arrow_schema(stored=True).names)


def _altered(flows: pa.Table, random: np.random.Generator, share: float) -> pa.Table:
    lists = flows["packet_length"].combine_chunks()
    lengths, offsets = lists.flatten().to_numpy().copy(), lists.offsets.to_numpy()
    chosen = np.flatnonzero(random.random(len(flows)) < share)
    packet = offsets[chosen] + (random.random(len(chosen)) * np.diff(offsets)[chosen]).astype(np.int64)
    lengths[packet] = random.integers(40, 1500, len(packet))
    altered = pa.ListArray.from_arrays(pa.array(offsets), pa.array(lengths))
    return flows.set_column(flows.column_names.index("packet_length"), "packet_length", altered)


def score_every_flow(root: str, num_flows: int) -> None:
    """The baseline: each flow is scored alone; prints the number of flows and the seconds."""
    store = Store(root)
    settings = config.load_settings()
    registry = Registry(settings.tracking, root)
    with tempfile.TemporaryDirectory() as folder:
        predictor = Predictor.load(registry.bundle("champion", folder))
    night = store.open("flows", _LARGE)
    site = Site(Networks(settings.census.inside))
    sums: dict[str, Any] = {}
    scored, begin = 0, time.perf_counter()
    for path in sorted(Path(night.uri).glob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            if scored >= num_flows:
                break
            flows = pa.Table.from_batches([batch])
            device = name_devices(flows, site).device
            probabilities = predictor.probabilities(predictor.encoding.encode(flows), anew=True)
            for name, row in zip(device.to_pylist(), probabilities, strict=True):
                sums[name] = sums.get(name, 0) + row
            scored += batch.num_rows
    summary = {"flows": scored, "devices": len(sums), "seconds": time.perf_counter() - begin}
    command.print_lines(json.dumps(summary))


def _timed(arguments: list[str]) -> tuple[float, str]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - begin, done.stdout


def _distinct(night: Partition) -> int:
    flows = pq.read_table(night.uri, columns=["packet_length", "tcp_window"], partitioning=None)
    rows = zip(*(flows[name].to_pylist() for name in flows.column_names), strict=True)
    return len({(tuple(lengths), tuple(windows)) for lengths, windows in rows})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", help="folder of captures; default: simulated ones")
    options.add_argument("--labels", help="their device list")
    options.add_argument("--flows", type=int, default=1_000_000)
    options.add_argument("--devices", type=int, default=20_000)
    options.add_argument("--fresh", type=float, default=0.0, help="share of flows that get another length")
    options.add_argument("--baseline-flows", type=int, default=20_000, help="that the baseline scores")
    options.add_argument("--root", type=Path)
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    options.add_argument("--score-every-flow", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.score_every_flow:
        score_every_flow(str(given.root), given.baseline_flows)
        return
    if bool(given.captures) != bool(given.labels):
        options.error("--captures and --labels go together")
    messages.log_to_stderr()
    with tempfile.TemporaryDirectory() as made:
        result = _measure(given, Path(made))
    command.print_lines(json.dumps(result))


def _measure(given: argparse.Namespace, made: Path) -> dict[str, Any]:
    root = str((given.root or made / "root").absolute())
    layers = ["--set", f"storage.root={root}", *_SETTINGS]
    layers += [part for text in given.overrides for part in ("--set", text)]
    captures, labels = given.captures, given.labels
    if not captures:
        write_demo(made)
        captures, labels = str(made / "captures"), str(made / "devices.yaml")
    store = Store(root)
    if Registry(config.load_settings(overrides=layers[1::2]).tracking, root).find_version("champion") is None:
        learn(root, captures, labels, layers)
    multiply(store, labels, given.flows, given.devices, given.fresh)
    night = store.open("flows", _LARGE)
    asked = ["--site", _LARGE["site"], "--date", _LARGE["capture_date"]]
    ours_s, _ = _timed(["-m", "iotid.cli", "take-census", *layers, *asked])
    this = str(Path(__file__))
    whole_s, out = _timed([this, "--score-every-flow", "--root", root, "--baseline-flows", str(given.baseline_flows)])
    baseline = json.loads(out.splitlines()[-1])
    flows_per_s = baseline["flows"] / baseline["seconds"]
    baseline_s = whole_s - baseline["seconds"] + night.metadata["rows"] / flows_per_s
    census = store.open("census", _LARGE).metadata
    return {
        "flows": night.metadata["rows"],
        "distinct_sequences": _distinct(night),
        "devices": census["devices"],
        "status": census["status"],
        "iotid_s": round(ours_s, 1),
        "baseline": {"scored": baseline["flows"], "flows_per_s": round(flows_per_s, 1), "all_s": round(baseline_s, 1)},
        "ratio": round(baseline_s / ours_s, 1),
    }


if __name__ == "__main__":
    main()
