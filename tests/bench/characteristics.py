"""characteristics.py --captures DIR: what each characteristic brings, within laboratories and across them.

DIR holds the folders aalto, lsif and ucl. Each variant is a list of characteristics, or a change of the flows that
hides what may depend on the laboratory. For each, without any neural network:

within: in --folds folds of captures, the captures whose model (label) the device model, and the bag of tokens, name
rightly; and the outcomes of a census, by kind. across: each laboratory is left out of training once; of its devices
whose kind another laboratory has, how often the own kind is the most similar, or among the five most similar, for a
capture, a device, and a model (all its devices together); census_wrong: of all its captures those that a census names
wrongly.

Prints a table, in per cent, and one line of JSON.

Shape suffixes: N flows, V values of a list column.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from processes import processor  # beside this file

from iotid import config, messages
from iotid.dataset import LabelledFlows
from iotid.flows import from_captures
from iotid.labels import DeviceList
from iotid.studies import protocols
from iotid.studies.split_run import BAG, CAPTURES, DEVICE_MODEL, DEVICES, RIGHT, SIMILARITY, WRONG, Answers, SplitRun

SITES = ("aalto", "lsif", "ucl")
PAPER = ("packet_length", "tcp_window")
HEADERS = ("tcp_options", "tcp_mss", "tcp_window_scale", "ttl_class", "dont_fragment")
_FURTHER = ("server_port", *HEADERS, "dscp", "ip_id_step", "timestamp_rate")
_FULL = 1400  # bytes: a path's MTU leaves about 1,400 to 1,500
_FIVE = 5


def without_full_lengths(flows: pa.Table) -> pa.Table:
    """Lengths from _FULL bytes on as _FULL: how long a full packet is depends on the path's MTU."""
    lengths = flows["packet_length"].combine_chunks()
    value_V = lengths.flatten().to_numpy()
    shorter = pa.array(np.minimum(value_V, _FULL), lengths.type.value_type)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lengths).to_numpy())])
    changed = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), shorter)
    place = flows.column_names.index("packet_length")
    return flows.set_column(place, flows.schema.field(place), changed)


def without_local_flows(flows: pa.Table) -> pa.Table:
    """Only flows with a server outside: which neighbours there are depends on the laboratory."""
    return flows.filter(pa.array([_is_outside(address) for address in flows["server_ip"].to_pylist()]))


@cache
def _is_outside(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_global and not parsed.is_multicast  # Python counts 239.255.255.250 among the global addresses


def unchanged(flows: pa.Table) -> pa.Table:
    return flows


class Variant(NamedTuple):
    characteristics: tuple[str, ...]
    change: Callable[[pa.Table], pa.Table] = unchanged


VARIANTS: Mapping[str, Variant] = {
    "lengths, windows": Variant(PAPER),
    "lengths": Variant(PAPER[:1]),
    "full packets alike": Variant(PAPER, without_full_lengths),
    "no local flows": Variant(PAPER, without_local_flows),
    **{f"and {name}": Variant((*PAPER, name)) for name in _FURTHER},
    "and ports, headers": Variant((*PAPER, "server_port", *HEADERS)),
    "the same, full alike": Variant((*PAPER, "server_port", *HEADERS), without_full_lengths),
}


def read(captures: Path, sites: Iterable[str] = SITES) -> dict[str, pa.Table]:
    """Site -> its flows."""
    found = {}
    for site in sites:
        # nearly every packet is in the files of lsif twice
        settings = config.load_settings(overrides=["capture.duplicate_window_us=10000"] if site == "lsif" else [])
        found[site] = from_captures(
            captures / site, join_files=False, header_fields=True, site=site, capture=settings.capture
        )
    return found


def labelled(tables: Mapping[str, pa.Table], variant: Variant, folds: int) -> tuple[LabelledFlows, config.Settings]:
    asked = f"dataset.characteristics=[{','.join(variant.characteristics)}]", f"evaluation.folds={folds}"
    settings = config.load_settings(overrides=["flow.join_files=false", "flow.header_fields=true", *asked])
    devices = DeviceList.read(*(f"conf/datasets/{site}.yaml" for site in tables))
    flows = variant.change(pa.concat_tables(list(tables.values())))
    return LabelledFlows.of(flows, devices, settings.dataset, settings.flow), settings


def answers(flows: LabelledFlows, settings: config.Settings, protocol: str) -> dict[tuple[str, str, bool], Answers]:
    """(system, CAPTURES or DEVICES, whether only of devices whose kind is in training) -> answers of all runs."""
    parts: dict[tuple[str, str, bool], list[Answers]] = defaultdict(list)
    for number, part_N in enumerate(protocols.splits(flows, protocol, settings.evaluation)):
        run = SplitRun(settings, Path(), None, flows, part_N, protocol, f"{protocol} {number + 1}")
        found = run.set_answers()
        for is_known, own in ((False, found), (True, run.of_learned_kinds(found))):
            for system, answered in own.items():
                for of in run.sets:
                    parts[system, of, is_known].append(answered[of])
    return {key: Answers(*map(np.concatenate, zip(*each, strict=True))) for key, each in parts.items()}


def within(flows: LabelledFlows, settings: config.Settings) -> dict[str, float]:
    found = answers(flows, settings, protocols.FOLDS)
    model, bag = (found[system, CAPTURES, False] for system in (DEVICE_MODEL, BAG))
    return {
        "device_model": _share(model.named == model.label),
        "bag": _share(bag.named == bag.label),
        "census_right": _share(model.outcome == RIGHT),
        "census_wrong": _share(model.outcome == WRONG),
    }


def across(flows: LabelledFlows, settings: config.Settings) -> dict[str, float]:
    found = answers(flows, settings, protocols.ACROSS)
    scores: dict[str, float] = {}
    for name, of in (("captures", CAPTURES), ("devices", DEVICES)):
        rank = found[SIMILARITY, of, True].kind_rank
        scores |= {
            name: len(rank), f"{name}_first": _share(rank == 1), f"{name}_in_five": _share((rank > 0) & (rank <= _FIVE))
        }  # fmt: skip
    outcome = found[DEVICE_MODEL, CAPTURES, False].outcome
    return {**scores, "census_right": _share(outcome == RIGHT), "census_wrong": _share(outcome == WRONG)}


def _share(is_so: NDArray[np.bool_]) -> float:
    return round(float(np.mean(is_so)), 4)


def score(tables: Mapping[str, pa.Table], variant: Variant, folds: int) -> dict[str, dict[str, float]]:
    """Site, or ``across`` -> scores."""
    found = {site: within(*labelled({site: table}, variant, folds)) for site, table in tables.items()}
    return {**found, protocols.ACROSS: across(*labelled(tables, variant, folds))}


def row(name: str, found: Mapping[str, Mapping[str, float]], columns: Iterable[tuple[str, str]]) -> str:
    return f"{name:24}" + "".join(f"{100 * found[of][score]:>14.1f}" for of, score in columns)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True, type=Path)
    options.add_argument("--folds", type=int, default=3, help="of captures, 3 or more (default 3)")
    given = options.parse_args()
    if given.folds < 3:
        options.error(f"--folds {given.folds}: must be 3 or more, for training, validation and test; give 3")
    messages.log_to_stderr()
    start = time.perf_counter()
    tables = read(given.captures)
    columns = [(site, system) for site in SITES for system in ("device_model", "bag", "census_right")]
    columns += [("across", f"{of}_{rank}") for of in ("devices", "captures") for rank in ("first", "in_five")]
    columns += [("across", "census_wrong")]
    for line in range(2):
        sys.stdout.write(" " * 24 + "".join(f"{column[line]:>14}"[-14:] for column in columns) + "\n")
    variants: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        variants[name] = score(tables, variant, given.folds)
        sys.stdout.write(row(name, variants[name], columns) + "\n")
        sys.stdout.flush()
    result = {
        "variants": variants, "folds": given.folds, "processor": processor(),
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
