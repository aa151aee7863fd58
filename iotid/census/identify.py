"""Makes one row per address from the output of the device model: its kinds, their probabilities, and the reason.

Pure functions on arrays and tables.

Shape suffixes: N addresses, C classes, K kinds, P pairs of an address and a kind found there, T runners-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.marks import KINDS_AT_ONCE, have_concurrent_kinds, mark_lists, with_mark_sentences
from iotid.model.device import Answer, Decision, decide, kinds_of
from iotid.model.device.decide import DECIMALS, KNOWN, UNDECIDED, UNKNOWN
from iotid.schemas import CENSUS

if TYPE_CHECKING:
    from iotid import config

_LISTS = {
    "host": pa.float64(),
    "household": pa.float64(),
    "class_share": pa.float64(),
    "flows": pa.int64(),
    "min_devices": pa.int64(),
    "begins": pa.int64(),
    "ends": pa.int64(),
    "known_tokens": pa.int64(),
    "similarity": pa.float64(),
    "unlike_kind": pa.float64(),
}
ANSWERS = pa.schema(
    [
        ("device_id", pa.string()),
        ("num_flows", pa.int64()),
        *(
            (field.name, pa.list_(_LISTS[field.name]) if field.name in _LISTS else pa.float64())
            for field in fields(Answer)
        ),
    ]
)
_COLUMNS = (
    "device_id", "status", "label", "vendor", "type", "confidence", "kinds", "runners_up", "similar_kinds",
    "unlike_kind", "unexplained", "household", "reason", "marks", "flows",
)  # fmt: skip
IDENTIFIED = pa.schema([CENSUS.arrow_schema().field(name) for name in _COLUMNS])
_LEAST_LIKELY = 0.001  # smaller probabilities are not in LIKELY
_LIKELY = pa.list_(pa.struct([("index", pa.int32()), ("probability", pa.float64())]))
# columns beside IDENTIFIED from which totals are computed, and which are not stored: indices in Classes
LIKELY = pa.schema([("likely_kinds", _LIKELY), ("likely_classes", _LIKELY)])
SCORES = pa.schema([*IDENTIFIED, *LIKELY])
_RUNNERS_UP = 3
_SIMILAR = 5
_LEAST_SIMILAR = 0.001  # similarity of kinds with hardly a common token
UNLIKE = 0.05
"""Pages and texts call a device unlike its kind up to this p-value: 1 of 20 devices without any cause."""
_NAMED = 6  # kinds that a reason lists
_NULL_WITHOUT_MODEL = ("label", "vendor", "type", "unlike_kind")
NO_MODEL = "No model was there; unknown devices with similar traffic are one group."


def answers_to_arrow(device: pa.Array, flows_N: NDArray[np.int64], answer: Answer) -> pa.Table:
    """One row of ANSWERS for each address."""
    columns: list[pa.Array] = [device, pa.array(flows_N)]
    for field in ANSWERS.names[2:]:
        values = getattr(answer, field)
        if values is None:  # not asked for
            columns.append(pa.nulls(len(device), ANSWERS.field(field).type))
        elif field in _LISTS:
            offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel(), _LISTS[field])))
        else:
            columns.append(pa.array(values.astype(np.float64)))
    return pa.table(columns, schema=ANSWERS)


def answers_from_arrow(rows: pa.Table | pa.RecordBatch) -> Answer:
    """The inverse of `answers_to_arrow`."""
    values: dict[str, NDArray[Any]] = {}
    for field in ANSWERS.names[2:]:
        column = one_chunk(rows[field])
        if column.null_count:
            continue
        if field in _LISTS:
            values[field] = (
                column.flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1 if rows.num_rows else 0)
            )
        else:
            values[field] = column.to_numpy(zero_copy_only=False)
    return Answer(**values)


@dataclass(frozen=True)
class Classes:
    """The classes of a model with their vendors and types, and the kinds."""

    labels: tuple[str, ...]
    vendor: tuple[str | None, ...]
    type: tuple[str | None, ...]
    kinds: tuple[str, ...]
    kind_of: NDArray[np.int64]  # (C,) the kind of each class

    @classmethod
    def of(cls, labels: Sequence[str], known_devices: Mapping[str, Mapping[str, str | None]]) -> Self:
        kinds, kind_C = kinds_of(labels, known_devices)
        vendor, type_ = (
            tuple(known_devices.get(label, {}).get(what) or None for label in labels) for what in ("vendor", "type")
        )
        return cls(tuple(labels), vendor, type_, tuple(kinds), kind_C)


def identify(rows: pa.Table | pa.RecordBatch, share: float, classes: Classes, settings: config.Census) -> pa.Table:
    """One row of SCORES (IDENTIFIED and LIKELY) for each row of ANSWERS, in the same order.

    ``share``: of households among the addresses, see `model.device.decide`. A kind found is named by its class if that
    class has ``min_confidence``, otherwise by vendor and type.
    """
    if not rows.num_rows:
        return SCORES.empty_table()
    answer, flows_N = answers_from_arrow(rows), rows["num_flows"].to_numpy(zero_copy_only=False)
    decision = decide(answer, share, flows_N, settings)
    found = _found(answer, decision, classes, settings)
    is_one_N = pc.equal(pc.list_value_length(found), 1)
    device = one_chunk(rows["device_id"])
    is_marked_N = have_concurrent_kinds(answer, share, device, flows_N, settings)
    marks = mark_lists(is_marked_N, KINDS_AT_ONCE)
    reasons = map(with_mark_sentences, _reasons(answer, decision, classes), marks.to_pylist())
    first = pc.if_else(is_one_N, pc.list_element(_padded(found), 0), None)
    columns = {
        "device_id": device,
        "status": pa.array(decision.status, pa.string()),
        **{name: pc.struct_field(first, name) for name in ("label", "vendor", "type")},
        "confidence": pc.coalesce(
            pc.struct_field(first, "confidence"), pa.array(decision.probability.max(axis=1, initial=0))
        ),
        "kinds": found,
        "runners_up": _runners_up(decision, classes),
        "similar_kinds": _similar_kinds(answer, decision, classes),
        "unlike_kind": _unlike_kind(answer, decision),
        "unexplained": pa.array(np.round(answer.unexplained, DECIMALS)),
        "household": pa.array(decision.household),
        "reason": pa.array(list(reasons), pa.string()),
        "marks": marks,
        "flows": pa.array(flows_N),
        "likely_kinds": _likely(decision.probability),
        "likely_classes": _likely(_of_classes(answer, decision, classes)),
    }
    return pa.table([columns[name] for name in SCORES.names], schema=SCORES)


def without_model(device: pa.Array, flows: pa.Array) -> pa.Table:
    """IDENTIFIED of devices that no model was asked about, ordered by device: all unknown, with confidence 0."""
    counts = dict.fromkeys(("confidence", "household"), 0.0) | {"unexplained": 1.0}
    given = {"device_id": device, "status": pa.repeat(UNKNOWN, len(device)), "flows": flows}
    given |= {name: pa.repeat(value, len(device)) for name, value in counts.items()}
    given["reason"] = pa.repeat(NO_MODEL, len(device))
    empty = {
        name: pa.array([[]] * len(device), IDENTIFIED.field(name).type)
        for name in ("kinds", "runners_up", "similar_kinds", "marks")
    }
    nothing = {name: pa.nulls(len(device), IDENTIFIED.field(name).type) for name in _NULL_WITHOUT_MODEL}
    columns = given | empty | nothing
    return pa.table([columns[name] for name in _COLUMNS], schema=IDENTIFIED).sort_by("device_id")


def watched(rows: pa.Table, watchlist: config.Watchlist) -> pa.Array:
    """bool (N,): addresses that are on the watch list, and those with a kind whose label, vendor or type is on it, with
    a confidence in the entry's range."""
    kinds = one_chunk(rows["kinds"])
    found = kinds.flatten()
    lists = {"label": watchlist.labels, "vendor": watchlist.vendors, "type": watchlist.types}
    confidence, is_listed_P = found.field("confidence").to_numpy(zero_copy_only=False), np.zeros(len(found), bool)
    for column, entries in lists.items():
        for entry in entries:
            is_named = pc.fill_null(pc.equal(found.field(column), entry.name), False).to_numpy(zero_copy_only=False)
            is_listed_P |= is_named & (confidence >= entry.lowest) & (confidence <= entry.highest)
    hit_N = np.zeros(rows.num_rows, bool)
    hit_N[pc.list_parent_indices(kinds).to_numpy(zero_copy_only=False)[is_listed_P]] = True
    by_name = pc.is_in(one_chunk(rows["device_id"]), value_set=pa.array(map(str.lower, watchlist.devices), pa.string()))
    return pc.or_(pa.array(hit_N), by_name)


def names_of_kinds(kinds: pa.StructArray) -> pa.Array:
    """The name of each kind found: that of its class, if decided, otherwise that of the kind."""
    return pc.coalesce(kinds.field("label"), kinds.field("kind"))


def percents(part_P: NDArray[np.float64]) -> list[str]:
    """Whole percentages as texts, as in the page's script; never 0 % or 100 %, but <1 % and >99 %."""
    percent_P = np.floor(100 * part_P + 0.5).astype(np.int64).tolist()
    return [">99 %" if percent >= 100 else "<1 %" if percent < 1 else f"{percent} %" for percent in percent_P]


def _found(answer: Answer, decision: Decision, classes: Classes, settings: config.Census) -> pa.ListArray:
    """The kinds found at each address, as in CENSUS: those with most flows like theirs alone first."""
    address_P, kind_P = np.nonzero(decision.found)
    own_P, probability_P = answer.flows[address_P, kind_P], decision.probability[address_P, kind_P]
    order_P = np.lexsort((kind_P, -probability_P, -own_P, address_P))
    address_P, kind_P, own_P = address_P[order_P], kind_P[order_P], own_P[order_P]
    probability_P = probability_P[order_P]
    share_PC = np.where(classes.kind_of == kind_P[:, np.newaxis], answer.class_share[address_P], -1.0)
    class_P = share_PC.argmax(axis=1) if len(kind_P) else np.zeros(0, np.int64)
    of_class_P = np.round(probability_P * share_PC.max(axis=1, initial=0), DECIMALS)
    is_only_P = (share_PC >= 0).sum(axis=1) == 1
    is_named_P = is_only_P | (of_class_P >= settings.min_confidence)
    of_class = {
        name: pa.array(getattr(classes, name), pa.string()).take(pa.array(class_P)) for name in ("vendor", "type")
    }
    labels = pa.array(classes.labels, pa.string()).take(pa.array(class_P))
    values = {
        "kind": pa.array(classes.kinds, pa.string()).take(pa.array(kind_P)),
        "label": pc.if_else(pa.array(is_named_P), labels, None),
        **of_class,
        "confidence": pa.array(np.where(is_named_P & ~is_only_P, of_class_P, probability_P)),
        "flows": pa.array(own_P),
        "units": pa.array(answer.min_devices[address_P, kind_P]),
    }
    offsets = np.concatenate([[0], np.cumsum(decision.found.sum(axis=1))]).astype(np.int32)
    structs = pa.StructArray.from_arrays(list(values.values()), names=list(values))
    return pa.ListArray.from_arrays(pa.array(offsets), structs).cast(IDENTIFIED.field("kinds").type)


def _of_classes(answer: Answer, decision: Decision, classes: Classes) -> NDArray[np.float64]:
    """(N, C) probability of each class at each address; 0 for classes of no kind."""
    if not len(classes.kinds):
        return np.zeros(answer.class_share.shape)
    of_kind_NC = decision.probability[:, np.maximum(classes.kind_of, 0)]
    return np.round(np.where(classes.kind_of >= 0, of_kind_NC * answer.class_share, 0), DECIMALS)


def _likely(probability_NK: NDArray[np.float64]) -> pa.ListArray:
    """(N,) lists of the index and probability of what is not improbable."""
    row_E, item_E = np.nonzero(probability_NK >= _LEAST_LIKELY)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_E, minlength=len(probability_NK)))]).astype(np.int32)
    values = [pa.array(item_E.astype(np.int32)), pa.array(probability_NK[row_E, item_E])]
    entries = pa.StructArray.from_arrays(values, fields=list(_LIKELY.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), entries)


def _padded(lists: pa.ListArray) -> pa.ListArray:
    """The lists with null for empty ones: Arrow raises an error for an element of an empty list."""
    return pc.if_else(pc.equal(pc.list_value_length(lists), 0), None, lists)


def _runners_up(decision: Decision, classes: Classes) -> pa.ListArray:
    """Up to three of the likeliest kinds that were not found."""
    left_NK = np.where(decision.found, 0, decision.probability)
    order_NT = np.argsort(-left_NK, axis=1, kind="stable")[:, :_RUNNERS_UP]
    left_NT = np.take_along_axis(left_NK, order_NT, axis=1)
    listed_NT = left_NT > 0
    names = pa.array(classes.kinds, pa.string()).take(pa.array(order_NT[listed_NT]))
    structs = pa.StructArray.from_arrays([names, pa.array(left_NT[listed_NT])], names=["label", "confidence"])
    offsets = np.concatenate([[0], np.cumsum(listed_NT.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def _similar_kinds(answer: Answer, decision: Decision, classes: Classes) -> pa.ListArray:
    """The kinds that unknown and undecided addresses are the most similar to."""
    similar_NK = np.round(answer.similarity, DECIMALS)
    similar_NK[~np.isin(decision.status, (UNKNOWN, UNDECIDED))] = 0
    order_NT = np.argsort(-similar_NK, axis=1, kind="stable")[:, :_SIMILAR]
    listed_NT = np.take_along_axis(similar_NK, order_NT, axis=1) >= _LEAST_SIMILAR
    names = pa.array(classes.kinds, pa.string()).take(pa.array(order_NT[listed_NT]))
    offsets = np.concatenate([[0], np.cumsum(listed_NT.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), names)


def _unlike_kind(answer: Answer, decision: Decision) -> pa.Array:
    """The p-value of the kind, where one is there and nothing beside it, of whose flows it would be, too."""
    if answer.unlike_kind is None:
        return pa.nulls(len(decision.status), pa.float64())
    p_value_N = np.where(decision.found, answer.unlike_kind, 0).sum(axis=1)
    p_value_N[decision.status != KNOWN] = np.nan
    return pa.array(np.round(p_value_N, DECIMALS), from_pandas=True)


def _reasons(answer: Answer, decision: Decision, classes: Classes) -> Iterator[str]:
    """A sentence for each address: which kinds its distinct flows resemble."""
    best_N = decision.probability.argmax(axis=1) if len(classes.kinds) else np.zeros(len(decision.status), np.int64)
    best_percents = percents(decision.probability.max(axis=1, initial=0))
    for row, status in enumerate(decision.status.tolist()):
        distinct, of_several = int(answer.distinct[row]), int(answer.flows[row, -1])
        is_found_K = decision.found[row]
        listed = np.flatnonzero(is_found_K if is_found_K.any() else answer.flows[row, :-1])
        listed = listed[np.argsort(-answer.flows[row, listed], kind="stable")]
        own = {classes.kinds[kind]: int(answer.flows[row, kind]) for kind in listed.tolist()}
        rest = distinct - sum(own.values()) - of_several
        of_one = ", ".join(
            f"{number} like those of {name} alone" for name, number in list(own.items())[:_NAMED] if number
        )
        parts = [of_one] if of_one else []
        parts += [f"{of_several} like those of several kinds"] if of_several else []
        others = "none of the kinds found" if is_found_K.any() else "no learned kind"
        parts += [f"{rest} like those of {others}"] if rest else []
        flows = f"of {distinct} distinct flow{'s' if distinct != 1 else ''}: {'; '.join(parts)}"
        likeliest = f"{classes.kinds[best_N[row]]} ({best_percents[row]})" if classes.kinds else "none"
        if status == UNKNOWN:
            yield f"No learned kind explains this address; {flows}."
        elif status == UNDECIDED:
            yield f"Not enough evidence; likeliest is {likeliest}; {flows}."
        else:
            yield f"{flows[0].upper()}{flows[1:]}."
