"""The lines that `iotid prune` prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iotid.cli.inventory_output import format_size

if TYPE_CHECKING:
    from iotid.retention import Pruned
    from iotid.retention.plan import Choice


def format_pruned(pruned: Pruned, before: str, *, apply: bool) -> Iterator[str]:
    """The result for people: what goes by table and site, what is kept and why, leftovers, the sum."""
    done = "deleted" if apply else "would delete"
    groups: dict[tuple[str, str], list[tuple[Choice, int]]] = defaultdict(list)
    for choice, size in pruned.deleted:
        groups[choice.table, choice.title].append((choice, size))
    for (table, title), of in groups.items():
        dates = sorted(choice.key.get("capture_date", "") for choice, _ in of)
        span = "" if not dates[0] else f", {len(dates):,} dates, {dates[0]} to {dates[-1]}"
        yield f"{done} {table} of {title}{span}: {format_size(sum(size for _, size in of))}"
    for choice in pruned.kept:
        day = choice.key.get("capture_date")
        yield f"kept {choice.table} of {choice.title}{f', {day}' if day else ''}: {choice.needed}"
    if pruned.leftovers:
        size = sum(each.num_bytes for each in pruned.leftovers)
        yield f"{done} {len(pruned.leftovers):,} folders that runs left behind: {format_size(size)}"
    total = f"{len(pruned.deleted):,} partitions before {before}, {format_size(pruned.num_bytes)}"
    yield f"{done} {total}" if apply else f"{done} {total}; nothing was deleted: add --apply"
