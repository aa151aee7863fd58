"""Partial flows into flows: exact, or named as a stretch whose packets must be looked at themselves.

What merging cannot decide: a SYN, another MAC, or a packet beyond the active time-out, that must cut inside a partial
flow. It happens where captures overlap in time or an old flow runs on through many splits. ``partial.packets_alone`` of
such a stretch then merges like everything else, and leaves nothing undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from iotid import config
from iotid.flows.kernels import PACKETS, UNRESOLVED, Array
from iotid.flows.merge_kernels import merge_heads, sweep
from iotid.flows.partial import NO_PARTIALS, Partials, first_rows, rule_of, starts_of


class Merged(NamedTuple):
    """``flows``: exact. ``unresolved``: one row for each stretch and each task that read packets of it, no heads."""

    flows: Partials
    unresolved: Partials


class Merger:
    """Merges partial flows that come in merge order, batch by batch.

    The last flow of a batch may go on in the next one; it is held back as one row, whatever went into it.
    """

    def __init__(self, settings: config.Flow) -> None:
        self._rule = rule_of(settings)
        self._open = NO_PARTIALS
        self._open_tasks = NO_PARTIALS.task

    def add(self, batch: Partials) -> Merged:
        return self._merge(Partials.concat([self._open, batch]), hold_last=True)

    def finish(self, batch: Partials = NO_PARTIALS) -> Merged:
        """The last flows, with those of a last batch."""
        return self._merge(Partials.concat([self._open, batch]), hold_last=False)

    def _merge(self, rows: Partials, *, hold_last: bool) -> Merged:
        if not len(rows):
            return Merged(NO_PARTIALS, NO_PARTIALS)
        merged, ranges = self._sweep(rows)
        flows = merged.first(len(merged) - hold_last)
        is_stretch = flows.state[:, UNRESOLVED] == 1
        unresolved = NO_PARTIALS
        if is_stretch.any():
            unresolved = self._each_task(merged, rows, ranges, np.flatnonzero(is_stretch))
            flows = flows.take(np.flatnonzero(~is_stretch))
        if hold_last:
            self._open_tasks = self._tasks(rows, ranges[-1])
            self._open = merged.take(np.array([len(merged) - 1]))
        return Merged(flows, unresolved)

    def _sweep(self, rows: Partials) -> tuple[Partials, Array]:
        """All flows, open and unresolved ones too, and the range of rows that each was made of."""
        state = np.empty_like(rows.state)
        ranges = np.empty((len(rows), 2), np.int64)
        count = sweep(rows.keys, rows.state, self._rule, state, ranges)
        state, ranges = state[:count], ranges[:count]
        packets = np.minimum(state[:, PACKETS] + state[:, PACKETS + 1], self._rule.max_packets)
        starts = starts_of(np.where(state[:, UNRESOLVED], 0, packets))
        heads = np.empty((starts[-1], rows.heads.shape[1]), np.int64)
        merge_heads(ranges, rows.starts, rows.heads, starts, self._rule.keep_packets, heads)
        first = ranges[:, 0]
        return Partials(rows.task[first], rows.keys[first], state, starts, heads), ranges

    def _each_task(self, merged: Partials, rows: Partials, ranges: Array, stretches: Array) -> Partials:
        """The stretches' rows, one for each task that read packets of them."""
        tasks = [self._tasks(rows, ranges[stretch]) for stretch in stretches]
        repeated = merged.take(np.repeat(stretches, [len(several) for several in tasks]))
        return replace(repeated, task=np.concatenate(tasks))

    def _tasks(self, rows: Partials, span: Array) -> Array:
        """Tasks that read packets of the flow; row 0 may stand for what was held back, and for all of its tasks."""
        own = rows.task[span[0] : span[1]]
        return np.unique(np.concatenate([own, self._open_tasks]) if span[0] == 0 else own)


def merge(partials: Partials, settings: config.Flow) -> Merged:
    """All flows of partial flows that come in any order."""
    return Merger(settings).finish(partials.in_merge_order())


def rows_alone(parts: Sequence[Partials]) -> tuple[list[Array], Partials]:
    """For each part the rows whose key no other row of any part has, and all other rows in one.

    A row alone is a flow as it stands: a table cuts what it sees where a cut is due. They are nearly all, so that
    only the others need be sorted, swept and copied.
    """
    if not parts:
        return [], NO_PARTIALS
    first_row = first_rows(np.concatenate([part.keys for part in parts]))
    is_alone = np.bincount(first_row, minlength=len(first_row))[first_row] == 1
    flags = np.split(is_alone, np.cumsum([len(part) for part in parts])[:-1])
    others = [part.take(np.flatnonzero(~alone)) for part, alone in zip(parts, flags, strict=True)]
    return [np.flatnonzero(alone) for alone in flags], Partials.concat(others)
