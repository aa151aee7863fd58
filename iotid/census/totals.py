"""Sums of a census: how many addresses hold at least one of each kind, type, vendor and model.

Two numbers: ``found`` counts the addresses whose row names it; ``expected`` adds the probabilities of all addresses,
also of those where nothing was found. The second is right on average if the probabilities are calibrated, and with the
cumulants beside it gives an interval (`network.intervals`). Cumulants of independent addresses add up, over the
addresses of a site and over sites.

P(at least one device of a type) at an address is (1-h) min(1, sum p) + h (1 - product(1-p)) over the type's kinds of
probability p: a host (probability 1-h) is one device, so its kinds exclude each other; in a household they are
independent.

Pure functions on tables. Shape suffixes: N addresses, E entries (an address and something likely there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.changes import BACK, CHANGED, GONE, NEW, is_present, joined_names, present
from iotid.census.identify import Classes, names_of_kinds
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import TOTALS

LEVELS = ("all", "status", "kind", "type", "vendor", "model", "watched", "group")
WITH_PROBABILITIES = ("kind", "type", "vendor", "model")
ADDRESSES = "addresses"  # item of the level "all"
CUMULANTS = ("expected", "variance", "third_cumulant", "p_none")
_COUNTS = ("found", "new", "gone", "changed", "back", "remembered")
_LEAST = 0.001  # less is expected of what is not listed
_DECIMALS = 6  # as those of probabilities
EXPECTED = pa.schema([TOTALS.arrow_schema().field(name) for name in ("level", "item", *CUMULANTS)])


@dataclass(frozen=True)
class Entries:
    """What is likely at addresses: ``row`` (E,) of the address, ``item`` (E,) index in ``names``, ``probability``
    (E,)."""

    names: Sequence[str]
    row: NDArray[np.int64]
    item: NDArray[np.int64]
    probability: NDArray[np.float64]

    @classmethod
    def of_lists(cls, names: Sequence[str], likely: pa.ListArray) -> Self:
        """From lists of index and probability, one for each address."""
        entries = likely.flatten()
        row_E, item_E, probability_E = (
            each.to_numpy(zero_copy_only=False)
            for each in (pc.list_parent_indices(likely), entries.field("index"), entries.field("probability"))
        )
        return cls(names, row_E.astype(np.int64), item_E.astype(np.int64), probability_E)

    def grouped(self, names: Sequence[str | None]) -> Self:
        """The entries under other names, one for each item; without those of no name."""
        distinct = sorted({name for name in names if name is not None})
        index = {name: number for number, name in enumerate(distinct)}
        of_item = np.array([index.get(name, -1) if name is not None else -1 for name in names], np.int64)
        item_E = of_item[self.item] if len(of_item) else self.item
        is_named_E = item_E >= 0
        return type(self)(distinct, self.row[is_named_E], item_E[is_named_E], self.probability[is_named_E])


def expected_of_scores(scored: pa.Table, classes: Classes) -> pa.Table:
    """EXPECTED of scored addresses; ``scored``: LIKELY and household (`identify.SCORES`)."""
    kinds = Entries.of_lists(classes.kinds, one_chunk(scored["likely_kinds"]))
    models = Entries.of_lists(classes.labels, one_chunk(scored["likely_classes"]))
    class_K = [int(np.flatnonzero(classes.kind_of == kind)[0]) for kind in range(len(classes.kinds))]
    household_N = scored["household"].to_numpy()
    return _expected(
        kinds, models, [classes.type[one] for one in class_K], [classes.vendor[one] for one in class_K], household_N
    )


def expected_of_rows(census: pa.Table) -> pa.Table:
    """EXPECTED of the present rows of a census without totals: of the kinds that it names, found and nearly found.

    A kind that is named by its class has the probability of the class, which is less than its own; a kind that was
    never found has neither vendor nor type.
    """
    census = present(census)
    found, left = one_chunk(census["kinds"]), one_chunk(census["runners_up"])
    kind_P, left_P = found.flatten(), left.flatten()
    names = pa.concat_arrays([kind_P.field("kind"), left_P.field("label")]).dictionary_encode()
    row_E = np.concatenate([pc.list_parent_indices(each).to_numpy() for each in (found, left)]).astype(np.int64)
    probability_E = np.concatenate(
        [each.field("confidence").to_numpy(zero_copy_only=False) for each in (kind_P, left_P)]
    )
    kinds = Entries(names.dictionary.to_pylist(), row_E, names.indices.to_numpy().astype(np.int64), probability_E)
    described = {kind["kind"]: kind for kind in kind_P.to_pylist()}
    types, vendors = ([described.get(name, {}).get(what) for name in kinds.names] for what in ("type", "vendor"))
    labels = kind_P.field("label").dictionary_encode()
    is_named_P = pc.is_valid(labels).to_numpy(zero_copy_only=False)
    models = Entries(
        labels.dictionary.to_pylist(),
        row_E[: len(kind_P)][is_named_P],
        labels.indices.drop_null().to_numpy().astype(np.int64),
        probability_E[: len(kind_P)][is_named_P],
    )
    return _expected(kinds, models, types, vendors, census["household"].to_numpy())


def totals_of(census: pa.Table, expected: pa.Table | None = None, *, rounded: bool = False) -> pa.Table:
    """TOTALS of a census, in the order of LEVELS and then of items.

    Args:
        census: rows of CENSUS (stored columns).
        expected: EXPECTED of all its addresses; None: computed from the rows.
        rounded: round to tenths, for a census with pseudonyms, in which a sum over one address would show its
            probability; the variance is rounded up.
    """
    expected = expected_of_rows(census) if expected is None else expected
    if rounded:
        expected = _in_tenths(expected)
    counts = _counts(census)
    keys, expected_keys = (
        pc.binary_join_element_wise(table["level"], table["item"], "\n") for table in (counts, expected)
    )
    further = expected.filter(pc.invert(pc.is_in(expected_keys, value_set=one_chunk(keys))))
    zeros = pa.array(np.zeros(len(further), np.int64))
    rows = pa.concat_tables(
        [counts, pa.table([further["level"], further["item"], *[zeros] * len(_COUNTS)], names=counts.column_names)]
    )
    index = pc.index_in(pa.concat_arrays([one_chunk(keys), *_chunks(further)]), value_set=one_chunk(expected_keys))
    has_probability = pc.is_in(rows["level"], value_set=pa.array(WITH_PROBABILITIES))
    found = rows["found"].cast(pa.float64())
    otherwise = {
        "expected": pc.if_else(has_probability, 0.0, found),
        "variance": 0.0,
        "third_cumulant": 0.0,
        "p_none": pc.if_else(pc.or_(has_probability, pc.equal(found, 0)), 1.0, 0.0),
    }
    columns = {name: pc.coalesce(expected[name].take(index), value) for name, value in otherwise.items()}
    columns |= {name: rows[name] for name in rows.column_names}
    schema = TOTALS.arrow_schema()
    return in_order(pa.table([columns[name] for name in schema.names], schema=schema))


def in_order(totals: pa.Table) -> pa.Table:
    """Rows with the columns ``level`` and ``item``, in the order of LEVELS and then of items."""
    order = totals.append_column("order", pc.index_in(totals["level"], value_set=pa.array(LEVELS)))
    return order.sort_by([("order", "ascending"), ("item", "ascending")]).drop_columns(["order"]).combine_chunks()


def _chunks(expected: pa.Table) -> list[pa.Array]:
    return [one_chunk(pc.binary_join_element_wise(expected["level"], expected["item"], "\n"))]


def _expected(
    kinds: Entries,
    models: Entries,
    type_of_kind: Sequence[str | None],
    vendor_of_kind: Sequence[str | None],
    household_N: NDArray[np.float64],
) -> pa.Table:
    by_level = {
        "kind": kinds, "type": kinds.grouped(type_of_kind), "vendor": kinds.grouped(vendor_of_kind), "model": models,
    }  # fmt: skip
    tables = [_cumulants(level, entries, household_N) for level, entries in by_level.items()]
    return in_order(pa.concat_tables(tables))


def _cumulants(level: str, entries: Entries, household_N: NDArray[np.float64]) -> pa.Table:
    """EXPECTED of one level."""
    number = max(len(entries.names), 1)
    key_E = entries.row * number + entries.item
    pair_P, of_E = np.unique(key_E, return_inverse=True)
    p_E = np.clip(entries.probability, 0, 1)
    household_P = household_N[pair_P // number]
    with np.errstate(divide="ignore"):
        p_none_P = np.exp(np.bincount(of_E, np.log1p(-p_E), len(pair_P)))
    p_P = (1 - household_P) * np.minimum(np.bincount(of_E, p_E, len(pair_P)), 1) + household_P * (1 - p_none_P)
    p_P = np.clip(np.round(p_P, _DECIMALS), 0, 1)
    item_P, spread_P = pair_P % number, p_P * (1 - p_P)
    with np.errstate(divide="ignore"):
        log_none = np.bincount(item_P, np.log1p(-p_P), number)
    sums = [np.bincount(item_P, values, number) for values in (p_P, spread_P, spread_P * (1 - 2 * p_P))]
    listed = np.flatnonzero(sums[0] >= _LEAST)
    columns = [np.round(values[listed], _DECIMALS) for values in (*sums, np.exp(log_none))]
    names = pa.array(entries.names, pa.string()).take(pa.array(listed))
    return pa.table([pa.array([level] * len(listed), pa.string()), names, *map(pa.array, columns)], schema=EXPECTED)


def _in_tenths(expected: pa.Table) -> pa.Table:
    for name in CUMULANTS:
        values = expected[name].to_numpy()
        tenths = np.ceil(np.round(10 * values, _DECIMALS)) / 10 if name == "variance" else np.round(values, 1)
        expected = expected.set_column(expected.schema.get_field_index(name), expected.schema.field(name), [tenths])
    return expected


def _counts(census: pa.Table) -> pa.Table:
    """Columns level, item and _COUNTS of the rows of a census."""
    kinds = one_chunk(census["kinds"])
    found, row_P = kinds.flatten(), pc.list_parent_indices(kinds).to_numpy().astype(np.int64)
    names = names_of_kinds(found)
    is_new_kind_P = _are_in(row_P, names, one_chunk(census["new_kinds"]))
    every_row = np.arange(len(census))
    is_changed_N = pc.equal(one_chunk(census["change"]), CHANGED).to_numpy(zero_copy_only=False)
    watched = pc.if_else(census["watched"], pc.fill_null(joined_names(census), UNKNOWN), None)
    levels = {
        "all": (every_row, pa.array([ADDRESSES] * len(census), pa.string()), is_changed_N),
        "status": (every_row, census["status"], is_changed_N),
        "kind": (row_P, found.field("kind"), is_new_kind_P),
        "type": (row_P, found.field("type"), is_new_kind_P),
        "vendor": (row_P, found.field("vendor"), is_new_kind_P),
        "model": (row_P, found.field("label"), is_new_kind_P),
        "watched": (every_row, watched, is_changed_N),
        "group": (every_row, census["group_name"], is_changed_N),
    }
    tables = [_counts_of(level, *entries, one_chunk(census["change"])) for level, entries in levels.items()]
    return pa.concat_tables(tables)


def _counts_of(
    level: str,
    row_E: NDArray[np.int64],
    item: pa.Array | pa.ChunkedArray,
    is_changed_E: NDArray[np.bool_],
    change: pa.Array,
) -> pa.Table:
    """Counts of one level: ``row_E`` (E,) rows, ``item`` (E,) what they have, ``is_changed_E`` (E,): newly found."""
    entries = pa.table({"row": row_E, "item": one_chunk(item), "is_changed": is_changed_E.astype(np.int64)})
    entries = entries.filter(pc.is_valid(entries["item"]))
    distinct = entries.group_by(["row", "item"], use_threads=False).aggregate([("is_changed", "max")])
    change_E = change.take(one_chunk(distinct["row"]))
    flags = {
        "found": is_present(change_E),
        "new": pc.equal(change_E, NEW),
        "gone": pc.equal(change_E, GONE),
        "changed": pc.and_(pc.equal(change_E, CHANGED), pc.equal(distinct["is_changed_max"], 1)),
        "back": pc.equal(change_E, BACK),
        "remembered": pa.array(np.ones(len(distinct), np.int64)),
    }
    table = pa.table({"item": distinct["item"], **{name: flag.cast(pa.int64()) for name, flag in flags.items()}})
    summed = table.group_by("item", use_threads=False).aggregate([(name, "sum") for name in _COUNTS])
    sums = [summed[f"{name}_sum"].cast(pa.int64()) for name in _COUNTS]
    of_level = pa.array([level] * len(summed), pa.string())
    return pa.table([of_level, summed["item"], *sums], names=["level", "item", *_COUNTS])


def _are_in(row_P: NDArray[np.int64], names: pa.Array, lists: pa.ListArray) -> NDArray[np.bool_]:
    """(P,) whether each name is in the list of its row."""
    listed = {*zip(pc.list_parent_indices(lists).to_pylist(), lists.flatten().to_pylist(), strict=True)}
    pairs = zip(row_P.tolist(), names.to_pylist(), strict=True)
    return np.fromiter((pair in listed for pair in pairs), np.bool_, len(row_P))
