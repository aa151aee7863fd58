"""Renders a census as a self-contained HTML page and as CSV. All names are untrusted, as they come from lists.

The page loads nothing. It contains its rows as JSON and draws 50 rows of the table at a time, so that a hundred
thousand rows stay usable. Anyone can forge devices on a network, so a setting limits the rows of the page; the CSV has
all.

Shape suffixes: N rows, P kinds found in all rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.capture.by_date import date_warning
from iotid.census.attention import ROWS, VIEWS, ranks, sections
from iotid.census.changes import NEW, is_present, present
from iotid.census.csv_text import csv_text
from iotid.census.group_titles import group_titles
from iotid.census.groups import OTHERS
from iotid.census.identify import UNLIKE, names_of_kinds, percents
from iotid.census.left_out import OTHER_PROTOCOL
from iotid.census.unlisted import hosts_without_row
from iotid.labels.hosts import NO_HOST, OUTSIDE, ROUTER, UNANSWERED
from iotid.pages import in_words, page_environment

if TYPE_CHECKING:
    from markupsafe import Markup

_BARS = 12  # of a chart, then one bar of "others"
_LEFT_OUT = {
    ROUTER: "forwarded by a router from an outside address",
    OUTSIDE: "from an outside address, without a MAC",
    NO_HOST: "from an address of no single host, without a MAC",
    UNANSWERED: "to an address that did not answer",
    OTHER_PROTOCOL: "of another IP protocol",
}
_PLAIN = ("device_id", "mac_randomised", "confidence", "flows", "bytes", "watched", "addresses", "dates_present")
_LINKS = ("before", "before_date", "after", "after_date", "network", "report")  # to pages, see take._links
_LISTED = 10  # rows of flows left out, for each reason
_REASONS = 30  # listed reasons why packets are in no flow; each protocol number that is not decoded is one
# columns with few distinct values, which are dictionary-encoded
_DICTIONARY_ENCODED = (
    "status", "marks", "group_name", "named_by", "maker", "change", "same_as", "previous_label", "also", "reason",
    "runners_up", "similar_kinds", "device_name", "listed_label", "list_check", "earlier_names",
)  # fmt: skip
_LEAST = 0.005  # less probable runners-up would be 0 %


def render_csv(census: pa.Table) -> str:
    """A header and one line per row of CENSUS (stored columns); lists are joined by blanks or semicolons.

    Text that a spreadsheet would evaluate as a formula, or that begins with an invisible character, is prefixed with an
    apostrophe.
    """
    return csv_text(_flat(census))


def render_groups_csv(census: pa.Table, groups: pa.Table) -> str:
    """A header and one line per group of present unknown devices, largest first; text as in `render_csv`."""
    lines = group_lines(census, groups)
    services = pc.binary_join(one_chunk(lines["services"]), ", ")
    return csv_text({name: lines[name] for name in lines.column_names} | {"services": services})


def render_left_out_csv(left_out: pa.Table) -> str:
    """A header and one line per row of LEFT_OUT; text as in `render_csv`."""
    return csv_text({name: left_out[name] for name in left_out.column_names})


def render_table_csv(table: pa.Table) -> str:
    """A header and one line per row of a table without nested columns; text as in `render_csv`."""
    return csv_text({name: table[name] for name in table.column_names})


def group_lines(census: pa.Table, groups: pa.Table) -> pa.Table:
    """The groups with present devices, largest first: number of devices, new ones, flows, bytes, services, an example,
    and the name that a person gave it, null without one.

    ``groups``: GROUPS. The example is the device with most flows, the first of equal ones.
    """
    rows = census.filter(pc.and_(is_present(census["change"]), pc.is_valid(census["group_name"])))
    rows = rows.append_column("is_new", pc.equal(rows["change"], NEW)).combine_chunks()
    by_flows = rows.sort_by([("flows", "descending"), ("device_id", "ascending")]).group_by(
        "group_name", use_threads=False
    )
    sums = [(name, "sum") for name in ("is_new", "flows", "bytes")]
    of_first = [(name, "first") for name in ("device_id", "label", "named_by")]
    lines = by_flows.aggregate([("device_id", "count"), *of_first, *sums])
    index = pc.index_in(lines["group_name"], value_set=one_chunk(groups["group_name"]))
    renamed = {
        "group_name": lines["group_name"],
        "devices": lines["device_id_count"],
        "new": lines["is_new_sum"].cast(pa.int64()),
        "flows": lines["flows_sum"],
        "bytes": lines["bytes_sum"],
        "services": groups["services"].take(index),
        "example": lines["device_id_first"],
        "name": lines["label_first"],
        "named_by": lines["named_by_first"],
    }
    return pa.table(renamed).sort_by([("devices", "descending"), ("group_name", "ascending")])


def render_page(
    census: pa.Table, groups: pa.Table, left_out: pa.Table, metadata: Mapping[str, Any], most_rows: int
) -> str:
    """The page of one census. ``groups``: GROUPS; ``left_out``: LEFT_OUT; ``metadata``: of the partition, with site,
    capture_date and links to other pages; ``most_rows``: greatest number of rows in the table."""
    environment = page_environment("iotid.census")
    environment.filters["percent"] = lambda part: percents(np.array([part]))[0]
    environment.filters["in_words"] = in_words
    census = census.append_column("also", _also(census))
    kinds = one_chunk(present(census)["kinds"])
    lines = group_lines(census, groups)
    titles = group_titles(dict(zip(lines["group_name"].to_pylist(), lines["services"].to_pylist(), strict=True)))
    unnamed = lines.filter(pc.is_null(lines["named_by"]))
    shown, packets = _shown_rows(census, lines, most_rows), Counter(metadata["packets"])
    found = pa.RecordBatch.from_struct_array(kinds.flatten())
    listed = metadata.get("device_list") or {}
    found_sections = sections(census, listed)
    option = f" --set storage.root={metadata['root']}" if metadata.get("root") else ""
    return environment.get_template("census.html.j2").render(
        metadata=metadata,
        links=dict.fromkeys(_LINKS) | (metadata.get("links") or {}),
        listed=listed,
        date_warning=date_warning(metadata.get("flows_by_date") or {}, metadata["capture_date"], "flows"),
        charts={"Type": _bars(found["type"]), "Vendor": _bars(found["vendor"])},
        found={"kinds": len(found), "addresses": pc.sum(pc.greater(pc.list_value_length(kinds), 0)).as_py() or 0},
        sections=found_sections,
        views=VIEWS,
        groups={"count": len(unnamed), "rows": unnamed.slice(0, ROWS).to_pylist(), "others": OTHERS},
        titles=titles,
        unlike=UNLIKE,
        root=metadata.get("root"),
        packets={"flow": packets.pop("flow", 0), "left": packets.total(), "reasons": _reasons(packets)},
        left_out=_left_out(left_out, metadata),
        hosts=hosts_without_row(census, left_out, metadata),
        rows={"shown": len(shown), "all": len(census)},
        data=_script_json(_columns(shown) | _group_columns(shown, lines) | {"titles": titles, "set": option}),
    )


def _shown_rows(census: pa.Table, lines: pa.Table, most: int) -> pa.Table:
    """At most ``most`` rows for the page's table, taken in rotation from each combination of status, change and marks,
    those with most flows first, so that a flood of similar rows does not displace the others. ``lines``: of
    `group_lines`."""
    if len(census) <= most:
        return census
    is_example = pc.is_in(census["device_id"], value_set=one_chunk(lines["example"]))
    marks = pc.binary_join(one_chunk(census["marks"]), " ")
    category = pc.binary_join_element_wise(census["status"], census["change"], is_example.cast(pa.string()), marks, " ")
    category_N = one_chunk(category).dictionary_encode().indices.to_numpy()
    order = np.lexsort((-census["flows"].to_numpy(), category_N))
    starts = np.flatnonzero(np.diff(category_N[order], prepend=-1))
    rank_N = np.empty(len(order), np.int64)
    rank_N[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    chosen = np.lexsort((rank_N, ~census["watched"].to_numpy()))[:most]
    return census.take(np.sort(chosen))


def _left_out(left_out: pa.Table, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each reason why flows belong to no row: title, flows, number of MACs and addresses, and the first rows."""
    flows = {**metadata["flows_without_device"], OTHER_PROTOCOL: metadata["flows_of_other_protocols"]}
    rows = left_out.to_pylist()
    return [
        {
            "title": _LEFT_OUT[reason],
            "is_router": reason == ROUTER,
            "flows": count,
            "ends": sum(row["ends"] for row in rows if row["reason"] == reason),
            "rows": [row for row in rows if row["reason"] == reason and row["in_census"] is not None][:_LISTED],
        }
        for reason, count in flows.items()
        if count
    ]


def _reasons(packets: Counter[str]) -> list[tuple[str, int]]:
    """Reasons why packets are in no flow, sorted; the rarer ones as one entry."""
    common = +Counter(dict(packets.most_common(_REASONS)))
    others = packets.total() - common.total()
    return sorted(common.items()) + ([(f"{len(packets) - len(common):,} further reasons", others)] if others else [])


def _bars(names: pa.Array) -> list[tuple[str, int, float]]:
    """(name, number, percentage of the longest bar) of the commonest names; then the others, and null, as one bar
    each."""
    counts = Counter(names.to_pylist())
    unnamed = counts.pop(None, 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = ranked[:_BARS]
    others = sum(count for _, count in ranked[_BARS:])
    bars += [(f"{len(ranked) - _BARS} others", others)] if others else []
    bars += [("not in the device list", unnamed)] if unnamed else []
    longest = max((count for _, count in bars), default=1)
    return [(name, count, round(100 * count / longest, 1)) for name, count in bars]


def _columns(census: pa.Table) -> dict[str, Any]:
    """The rows for the page's script, as columns."""
    flat = _flat(census)
    columns: dict[str, Any] = {"kinds": _kinds(one_chunk(census["kinds"]))}
    for name in _DICTIONARY_ENCODED:
        coded = flat[name].combine_chunks().dictionary_encode()
        columns[name] = {"names": coded.dictionary.to_pylist(), "codes": coded.indices.fill_null(-1).to_pylist()}
    for name in _PLAIN:
        columns[name] = flat[name].to_pylist()
    columns["unexplained"] = pc.round(census["unexplained"], 3).to_pylist()
    columns["rank"] = ranks(census)
    if census["unlike_kind"].null_count < len(census):
        columns["unlike_kind"] = census["unlike_kind"].to_pylist()
    for name in ("first_seen", "last_seen", "first_seen_ever"):
        columns[name] = pc.divide(census[name].cast(pa.int64()), 1_000_000).to_pylist()
    return columns


def _kinds(kinds: pa.ListArray) -> dict[str, list[list[Any]]]:
    """``named``: name, vendor and type of each kind; ``of``: for each address, the index in ``named`` and the
    probability of each kind found, alternately.

    The name of a kind without a class already consists of vendor and type.
    """
    found = kinds.flatten()
    is_named = pc.is_valid(found.field("label"))
    more = [pc.if_else(is_named, found.field(name), None).to_pylist() for name in ("vendor", "type")]
    indices: dict[tuple[str, str | None, str | None], int] = {}
    keys = zip(_printed(found).to_pylist(), *more, strict=True)
    index_P = [indices.setdefault(key, len(indices)) for key in keys]
    pairs = [value for pair in zip(index_P, found.field("confidence").to_pylist(), strict=True) for value in pair]
    ends = 2 * np.cumsum([0, *pc.list_value_length(kinds).to_pylist()])
    of = [pairs[start:end] for start, end in pairwise(ends.tolist())]
    return {"named": [list(key) for key in indices], "of": of}


def _printed(kinds: pa.StructArray) -> pa.Array:
    """The name of each kind found, with a note if there must be more than one device of it."""
    names, are_more = names_of_kinds(kinds), pc.fill_null(pc.greater(kinds.field("units"), 1), False)
    return pc.if_else(are_more, pc.binary_join_element_wise(names, "(2 or more)", " "), names)


def _also(census: pa.Table) -> pa.Array:
    """The names of kinds that are new at an address; null if none is, or all are."""
    new = one_chunk(census["new_kinds"])
    number, before = pc.list_value_length(new), pc.list_value_length(one_chunk(census["kinds"]))
    return pc.if_else(pc.and_(pc.greater(number, 0), pc.less(number, before)), pc.binary_join(new, ", "), None)


def _group_columns(census: pa.Table, lines: pa.Table) -> dict[str, Any]:
    """For the page's script: number of devices in the group if the row is its example, else 0; and each group's
    services."""
    lines = lines.filter(pc.is_in(lines["group_name"], value_set=one_chunk(census["group_name"])))
    index = pc.index_in(census["device_id"], value_set=one_chunk(lines["example"]))
    services = pc.binary_join(one_chunk(lines["services"]), ", ").to_pylist()
    return {
        "stands_for": pc.fill_null(lines["devices"].take(index), 0).to_pylist(),
        "services": dict(zip(lines["group_name"].to_pylist(), services, strict=True)),
    }


def _flat(census: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns with lists as text: addresses joined by blanks, kinds as "name 12 %; name 3 %"."""
    columns = {name: census[name] for name in census.column_names}
    runners_up, kinds = one_chunk(census["runners_up"]), one_chunk(census["kinds"])
    columns["runners_up"] = _shares(runners_up, runners_up.flatten().field("label"), _LEAST)
    columns["kinds"] = _shares(kinds, _printed(kinds.flatten()), 0)
    for name in ("new_kinds", "marks", "earlier_names", "similar_kinds"):
        columns[name] = pc.binary_join(census[name], "; ")
    columns["addresses"] = pc.binary_join(census["addresses"], " ")
    return columns


def _shares(listed: pa.ListArray, names: pa.Array, least: float) -> pa.ChunkedArray:
    """The lists as text, without entries less probable than ``least``; ``names``: of the entries of all lists."""
    confidence_P = listed.flatten().field("confidence").to_numpy(zero_copy_only=False)
    is_kept_P = confidence_P >= least
    texts = pc.binary_join_element_wise(names, pa.array(percents(confidence_P), pa.string()), " ")
    row_P = pc.list_parent_indices(listed).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_P[is_kept_P], minlength=len(listed)))]).astype(np.int32)
    entries = pa.ListArray.from_arrays(pa.array(offsets), texts.filter(pa.array(is_kept_P)))
    return pa.chunked_array([pc.binary_join(entries, "; ")])


def _script_json(value: Any) -> Markup:
    """JSON that can neither end its script element nor begin an HTML comment or entity."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
