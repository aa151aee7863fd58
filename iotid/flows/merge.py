"""Merges partial flows into flows, or into unresolved intervals, whose packets must be read again.

An interval is unresolved if a SYN, another MAC or the active time-out may cut inside a partial flow. That happens if
captures overlap in time or an old flow continues through many splits. Its packets, each as a partial flow of its own
(``partial.single_packets``), are then merged in the same way, and leave nothing unresolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from iotid import config
from iotid.flows.layout import PACKETS, UNRESOLVED, Array
from iotid.flows.merge_kernels import merge_first_packets, merge_sorted
from iotid.flows.partial import NO_PARTIALS, Partials, first_rows, rule_of, starts_of


class Merged(NamedTuple):
    """``flows``: resolved. ``unresolved``: a row, without first packets, for each unresolved interval and each task
    that read packets of it."""

    flows: Partials
    unresolved: Partials


class Merger:
    """Merges partial flows that arrive in merge order, batch by batch.

    The last flow of a batch may continue in the next, so it is held back as one row.
    """

    def __init__(self, settings: config.Flow) -> None:
        self._rule = rule_of(settings)
        self._open = NO_PARTIALS
        self._open_tasks = NO_PARTIALS.task

    def add(self, batch: Partials) -> Merged:
        return self._merge(Partials.concat([self._open, batch]), hold_last=True)

    def finish(self, batch: Partials = NO_PARTIALS) -> Merged:
        """The remaining flows, after an optional last batch."""
        return self._merge(Partials.concat([self._open, batch]), hold_last=False)

    def _merge(self, rows: Partials, *, hold_last: bool) -> Merged:
        if not len(rows):
            return Merged(NO_PARTIALS, NO_PARTIALS)
        merged, ranges = self._merge_rows(rows)
        flows = merged.first(len(merged) - hold_last)
        is_unresolved = flows.state[:, UNRESOLVED] == 1
        unresolved = NO_PARTIALS
        if is_unresolved.any():
            unresolved = self._each_task(merged, rows, ranges, np.flatnonzero(is_unresolved))
            flows = flows.take(np.flatnonzero(~is_unresolved))
        if hold_last:
            self._open_tasks = self._tasks(rows, ranges[-1])
            self._open = merged.take(np.array([len(merged) - 1]))
        return Merged(flows, unresolved)

    def _merge_rows(self, rows: Partials) -> tuple[Partials, Array]:
        """All flows, including open and unresolved ones, and the range of rows merged into each."""
        state = np.empty_like(rows.state)
        ranges = np.empty((len(rows), 2), np.int64)
        count = merge_sorted(rows.keys, rows.state, self._rule, state, ranges)
        state, ranges = state[:count], ranges[:count]
        packets = np.minimum(state[:, PACKETS] + state[:, PACKETS + 1], self._rule.max_packets)
        starts = starts_of(np.where(state[:, UNRESOLVED], 0, packets))
        first_packets = np.empty((starts[-1], rows.first_packets.shape[1]), np.int64)
        merge_first_packets(ranges, rows.starts, rows.first_packets, starts, self._rule, first_packets)
        first = ranges[:, 0]
        return Partials(rows.task[first], rows.keys[first], state, starts, first_packets), ranges

    def _each_task(self, merged: Partials, rows: Partials, ranges: Array, intervals: Array) -> Partials:
        """The intervals' rows, one for each task that read packets of them."""
        tasks = [self._tasks(rows, ranges[interval]) for interval in intervals]
        repeated = merged.take(np.repeat(intervals, [len(several) for several in tasks]))
        return replace(repeated, task=np.concatenate(tasks))

    def _tasks(self, rows: Partials, span: Array) -> Array:
        """Tasks that read packets of the flow; row 0 may be the one held back, which stands for several tasks."""
        own = rows.task[span[0] : span[1]]
        return np.unique(np.concatenate([own, self._open_tasks]) if span[0] == 0 else own)


def merge(partials: Partials, settings: config.Flow) -> Merged:
    """Merge partial flows in any order."""
    return Merger(settings).finish(partials.in_merge_order())


def separate_unique_keys(parts: Sequence[Partials]) -> tuple[list[Array], Partials]:
    """(of each part, the rows whose key is unique over all parts; all other rows, concatenated).

    A row with a unique key is a complete flow, because `FlowTable` already cuts flows. Nearly all are, so few rows have
    to be sorted, merged and copied.
    """
    if not parts:
        return [], NO_PARTIALS
    first_row = first_rows(np.concatenate([part.keys for part in parts]))
    is_unique = np.bincount(first_row, minlength=len(first_row))[first_row] == 1
    flags = np.split(is_unique, np.cumsum([len(part) for part in parts])[:-1])
    others = [part.take(np.flatnonzero(~unique)) for part, unique in zip(parts, flags, strict=True)]
    return [np.flatnonzero(unique) for unique in flags], Partials.concat(others)
