"""linkage.py [--census DIR] [--devices N] [--kinds K]: how many pseudonyms a clear census of the same date identifies.

The attacker has a census with pseudonyms and a clear one of the same date, and knows how numbers are made coarse. The
joins: columns that are equal once the clear table is as coarse (`first_seen`; `traffic`, which flow records have, too;
all `numbers` of a row; `everything` but identifiers); the clear device with the `nearest` numbers; and the first bits
that a device's address shares with the others (`prefixes`). A device counts if exactly one clear device matches, and it
is the right one.

Releases: `renamed` (pseudonyms alone), `rounded` (each row's numbers separately), and those of `census.pseudonyms`,
`opaque` and `prefixes`. `said`: devices with unique findings (status, kinds and group), which no release hides.

DIR: the folder of a clear census; default: synthetic devices. Ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.census.changes import ABSENT
from iotid.census.microaggregation import aggregate
from iotid.census.pseudonyms import Pseudonyms
from iotid.schemas import CENSUS

TRAFFIC = ("flows", "bytes", "first_seen", "last_seen")
NUMBERS = (*TRAFFIC, "confidence", "unexplained", "household")
_FINDING_COLUMNS = ("status", "label", "vendor", "type", "group_name")  # and the lists, without their numbers
_IDENTIFIERS = ("device_id", "addresses")
_KEY = b"the key of this benchmark"
_DATE = datetime(2026, 1, 10, tzinfo=UTC)


def measure(clear: pa.Table) -> dict[str, Any]:
    """Numbers of devices: all, those that status and kinds identify, and those that each join finds."""
    found: dict[str, Any] = {"devices": len(clear), "said": _matches(findings := _findings(aggregate(clear)), findings)}
    everything = [name for name in clear.column_names if name not in _IDENTIFIERS]
    for name, (coarse, released) in released_as(clear).items():
        found[name] = {
            "first_seen": joined(coarse, released, ["first_seen"]),
            "traffic": joined(coarse, released, TRAFFIC),
            "numbers": joined(coarse, released, NUMBERS),
            "everything": joined(coarse, released, everything),
            "nearest": nearest(clear, released),
            "prefixes": _matches(_shared_bits(clear), _shared_bits(released)),
        }
    return found


def released_as(clear: pa.Table, key: bytes = _KEY) -> dict[str, tuple[pa.Table, pa.Table]]:
    """For each release: the clear table made as coarse, and the release; row i of both is one device."""
    rounded = pa.concat_tables([aggregate(clear.slice(row, 1)) for row in range(len(clear))])
    common = aggregate(clear)
    opaque, prefixes = Pseudonyms(key), Pseudonyms(key, keep_prefixes=True)
    return {
        "renamed": (clear, prefixes.rename(clear)),
        "rounded": (rounded, opaque.rename(rounded)),
        "opaque": (common, opaque.rename(common)),
        "prefixes": (common, prefixes.rename(common)),
    }


def joined(coarse: pa.Table, released: pa.Table, columns: Sequence[str]) -> int:
    """Devices whose values of these columns are unique in both tables."""
    clear, other = (
        list(zip(*(map(str, table[name].to_pylist()) for name in columns), strict=True)) for table in (coarse, released)
    )
    return _matches(clear, other)


def nearest(clear: pa.Table, released: pa.Table) -> int:
    """Devices whose own clear row is nearer, by all NUMBERS, than any other."""
    clear_NF, released_NF = _features(clear), _features(released)
    scale_F = clear_NF.std(axis=0) + 1e-9
    count = 0
    for row, released_F in enumerate(released_NF):
        distance_N = (np.abs(clear_NF - released_F) / scale_F).sum(axis=1)
        count += int((distance_N <= distance_N[row]).sum() == 1)
    return count


def synthetic_census(devices: int, kinds: int, seed: int = 1) -> pa.Table:
    """A clear census (columns of CENSUS that scoring gives) of synthetic devices.

    Devices of a kind have log-normal flows and bytes; six in ten are present all day.
    """
    random = np.random.default_rng(seed)
    rows = []
    usual_flows_K, usual_bytes_K = random.lognormal(5, 1.2, kinds), random.lognormal(8, 1, kinds)
    for n in range(devices):
        kind, *others = random.choice(kinds, 4, replace=False).tolist()
        flows = 1 + int(usual_flows_K[kind] * random.lognormal(0, 0.4))
        is_present_all_day = random.random() < 0.6
        begin = random.exponential(300) if is_present_all_day else random.uniform(0, 72_000)
        end = 86_399 - random.exponential(300) if is_present_all_day else begin + random.exponential(14_400)
        probability, *shares = np.round([1 - 0.4 * random.beta(1, 6), *random.beta(1, 10, 3)], 6).tolist()
        name = {"label": f"kind {kind}", "vendor": f"vendor {kind % 5}", "type": f"type {kind % 3}"}
        found = {"kind": name["label"], **name, "confidence": probability, "flows": flows // 3, "units": 1}
        is_known = random.random() < 0.9
        rows.append(
            {
                "device_id": f"02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
                "status": "known" if is_known else "undecided",
                **(name if is_known else dict.fromkeys(name)),
                "confidence": probability,
                "kinds": [found] if is_known else [],
                "runners_up": [{"label": f"kind {other}", "confidence": shares[0] / 2} for other in others],
                "unexplained": shares[1],
                "household": shares[2],
                "marks": [],
                "reason": f"Of {flows // 2} distinct flows: {flows // 3} like those of {name['label']} alone.",
                "group_name": None,
                "flows": flows,
                "bytes": int(flows * usual_bytes_K[kind] * random.lognormal(0, 0.4)),
                "first_seen": _DATE + timedelta(seconds=begin),
                "last_seen": _DATE + timedelta(seconds=min(end, 86_399)),
                "addresses": [
                    f"10.0.{n >> 7}.{random.integers(1, 255)}",
                    *(f"fe80::{n:x}:{at:x}" for at in range(n % 3)),
                ],
                "watched": False,
            }
        )
    schema = CENSUS.arrow_schema()
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in rows[0]]))


def _matches(clear: Sequence[Hashable], released: Sequence[Hashable]) -> int:
    """Rows with the same value in both, that no other row has in either."""
    counts = Counter(clear), Counter(released)
    pairs = zip(clear, released, strict=True)
    return sum(one == other and counts[0][one] == counts[1][other] == 1 for one, other in pairs)


def _findings(coarse: pa.Table) -> list[str]:
    """The findings of each device, without numbers."""
    rows = coarse.select([*_FINDING_COLUMNS, "kinds", "runners_up"]).to_pylist()
    for one in (one for row in rows for name in ("kinds", "runners_up") for one in row[name]):
        del one["confidence"]
        one.pop("flows", None)
    return list(map(str, rows))


def _features(table: pa.Table) -> np.ndarray:
    """(N, F) the NUMBERS, counts by their logarithms."""
    columns = [table[name].cast(pa.int64()) if name.endswith("_seen") else table[name] for name in NUMBERS]
    values_NF = np.stack([column.to_numpy().astype(float) for column in columns], axis=1)
    values_NF[:, :2] = np.log1p(values_NF[:, :2])
    return values_NF


def _shared_bits(table: pa.Table) -> list[tuple[int, ...]]:
    """Bits that each device's first IPv4 address shares with those of the others; nothing without one."""
    texts = [next((text for text in row if "." in text), None) for row in table["addresses"].to_pylist()]
    number = [text and int(ipaddress.IPv4Address(text)) for text in texts]
    all_L = np.array([each for each in number if each is not None], np.int64)
    return [() if each is None else tuple(np.sort(np.frexp(all_L ^ each)[1]).tolist()) for each in number]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--census", help="folder of a clear census; default: synthetic devices")
    options.add_argument("--devices", type=int, default=2000)
    options.add_argument("--kinds", type=int, default=20)
    given = options.parse_args()
    if given.census:
        clear = pq.read_table(f"{given.census}/part-0.parquet", partitioning=None)
        clear = clear.filter(pc.invert(pc.equal(clear["status"], ABSENT))).combine_chunks()
    else:
        clear = synthetic_census(given.devices, given.kinds)
    sys.stdout.write(json.dumps(measure(clear)) + "\n")


if __name__ == "__main__":
    main()
