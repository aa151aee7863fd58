"""From the scores of a device's flows to one row that says what the device is; pure functions on arrays.

Multiplying the flows' probabilities would be certain of everything after ten flows: a device repeats itself, and
repeats are not independent evidence. Here each distinct flow (sequence) of a device has one say, of weight
1 + ln(number of flows that repeat it), and the device's evidence is the weighted mean of the classes' probabilities (a
linear opinion pool). The share of the best class is the confidence: one odd flow cannot veto it, a thousand copies of
one flow cannot carry it alone. It errs on the side of saying nothing: with a forest trained on one laboratory and
captures of another, it named 0 of 141 devices a day, where a product with floored factors gave 107 a wrong name.

A model that learned whole sets of flows answers for the set instead (`iotid.model.vote`), and tells how unlike all
training sets it is; what its flows say is summed like probabilities, what the set's things say is told once.

Behind network address translation one address holds several devices, and a vote for one of them is wrong however sure
it is. Which kinds are there, `iotid.model.kinds` tells from distinct flows that are sure of one; what several kinds
showed together is then no news where each alone would not have shown it.

Shape suffixes: N devices, R flows or rows of a part, C classes, K kinds, V values that are summed (see ``width``),
T runners-up, P pairs of a device and a kind found there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.dataset.arrays import one_chunk
from iotid.dataset.labels import UNKNOWN as UNLISTED
from iotid.model.kinds import DECIMALS, kinds_of, members
from iotid.model.novelty import LIMIT
from iotid.model.status import KNOWN, SEVERAL, UNKNOWN, statuses
from iotid.schemas import CENSUS

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.bundle import Learned

TALLY = pa.schema([("device_id", pa.string()), ("flows", pa.int64()), ("evidence", pa.list_(pa.float64()))])
_COLUMNS = ("device_id", "status", "label", "vendor", "type", "confidence", "runners_up", "several", "novelty", "flows")
VOTES = pa.schema([CENSUS.arrow_schema().field(name) for name in _COLUMNS])
_RUNNERS_UP = 3


def width(num_classes: int) -> int:
    """V: three blocks of columns, of C classes each but for what is said.

    Weighted sums over the flows: the probabilities, the surprise (1), the weight (1), what the flows say of the set.
    Of the set as a whole: what its things say, what it looks like (C + 1; see `Novelty`). Of distinct flows that are
    sure of a kind: their number under the best class, and their probabilities of that kind's classes (see ``sure_of``).
    """
    return 6 * num_classes + 3


class Tally:
    """Evidence summed by device. Parts may come in any order and number, so that workers can sum what they hold."""

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._devices = pa.array([], pa.string())
        self._flows_N = np.zeros(0, np.int64)
        self._evidence_NV = np.zeros((0, width(num_classes)))

    def add_flows(
        self,
        device: pa.Array,
        repeats_R: np.ndarray,
        scored_R: np.ndarray,
        probabilities: np.ndarray,
        surprise: np.ndarray,
        of_set: np.ndarray | None = None,
        sure: np.ndarray | None = None,
    ) -> None:
        """Add R pairs of a device and a distinct flow that it repeats ``repeats_R`` times.

        ``scored_R`` is the flow's row in ``probabilities`` (flows, C), ``surprise`` (flows,), ``of_set`` (flows, C),
        what the flow says of the set that it is in, and ``sure`` (flows, 2 C), what ``sure_of`` makes of it.
        """
        device_R, weight_R = self._rows_of(device), 1 + np.log(repeats_R)
        self._flows_N += np.bincount(device_R, repeats_R, len(self._devices)).astype(np.int64)
        values = np.column_stack([probabilities, surprise, np.ones(len(surprise))])
        self._add(device_R, weight_R, scored_R, values, 0)
        if of_set is not None:
            self._add(device_R, weight_R, scored_R, of_set, self._classes + 2)
        if sure is not None:
            self._add(device_R, np.ones(len(device_R)), scored_R, sure, 4 * self._classes + 3)

    def add_sets(self, device: pa.Array, of_things: np.ndarray, looks: np.ndarray) -> None:
        """Add what the things in each device's whole set say (devices, C), and what it looks like (devices, C + 1)."""
        rows = np.arange(len(looks))
        values = np.column_stack([of_things, looks])
        self._add(self._rows_of(device), np.ones(len(rows)), rows, values, 2 * self._classes + 2)

    def add(self, part: pa.Table | pa.RecordBatch) -> None:
        """Add what another tally holds, as its ``table()`` gave it."""
        rows = np.arange(part.num_rows)
        device_R = self._rows_of(part["device_id"])
        self._flows_N += np.bincount(device_R, part["flows"].to_numpy(), len(self._devices)).astype(np.int64)
        self._add(device_R, np.ones(len(rows)), rows, _matrix(part["evidence"], width(self._classes)), 0)

    def table(self) -> pa.Table:
        """One row of TALLY per device."""
        offsets = np.arange(len(self._devices) + 1, dtype=np.int32) * self._evidence_NV.shape[1]
        evidence = pa.ListArray.from_arrays(pa.array(offsets), pa.array(self._evidence_NV.ravel()))
        return pa.table([self._devices, pa.array(self._flows_N), evidence], schema=TALLY)

    def _add(
        self, device_R: np.ndarray, weight_R: np.ndarray, row_R: np.ndarray, values: np.ndarray, first: int
    ) -> None:
        """Sum the weighted rows of ``values`` by device, into the columns from ``first`` on."""
        for column in range(values.shape[1]):  # one at a time: (R, V) at once could be many times the input
            sums_N = np.bincount(device_R, weight_R * values[row_R, column], len(self._devices))
            self._evidence_NV[:, first + column] += sums_N

    def _rows_of(self, device: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each device, with new rows for devices that were not there yet."""
        encoded = one_chunk(device).dictionary_encode()
        is_new = pc.is_null(pc.index_in(encoded.dictionary, value_set=self._devices))
        self._devices = pa.concat_arrays([self._devices, encoded.dictionary.filter(is_new)])
        added = len(self._devices) - len(self._flows_N)
        self._flows_N = np.concatenate([self._flows_N, np.zeros(added, np.int64)])
        self._evidence_NV = np.concatenate([self._evidence_NV, np.zeros((added, self._evidence_NV.shape[1]))])
        row_of_code = pc.index_in(encoded.dictionary, value_set=self._devices).to_numpy()
        return np.asarray(row_of_code[encoded.indices.to_numpy()])


def vote(
    tally: pa.Table,
    labels: Sequence[str],
    known_devices: Mapping[str, Mapping[str, str | None]],
    settings: config.Census,
    learned: Learned | None = None,
) -> pa.Table:
    """One row of VOTES per device of the tally (TALLY), in its order.

    ``labels`` are the model's classes in the order of its probabilities; ``known_devices`` tells each one's vendor and
    type; ``learned`` is what the model knows beside its network; a set is new above `model.novelty.LIMIT`.
    `model.status` says what makes a device `unknown`. One that is not is `several` where two kinds or more are found,
    each by at least ``several_flows`` distinct flows that are sure of it and with less than ``several_chance`` of being
    a mistake; else it is `undecided` or `known`. Runners-up are the classes behind the label; where there is no label,
    the best class is the first of them.
    """
    C = len(labels)
    evidence_NV = _matrix(tally["evidence"], width(C))
    mean_NV = evidence_NV[:, : 2 * C + 2] / evidence_NV[:, C + 1 : C + 2]
    share_NC, surprise_N = mean_NV[:, :C], np.round(mean_NV[:, C], DECIMALS)
    kind_C = kinds_of(labels, known_devices)
    sure_N2C = evidence_NV[:, 4 * C + 3 :] * np.tile([label != UNLISTED for label in labels], 2)
    found_NK = _kinds_found(sure_N2C[:, :C], kind_C, settings, learned)
    novelty, is_new_N = pa.nulls(len(tally), pa.float64()), np.zeros(len(tally), bool)
    if learned and learned.vote and learned.novelty:
        share_NC = learned.vote.decide(evidence_NV[:, 2 * C + 2 : 3 * C + 2], mean_NV[:, C + 2 :])
        looks, among_N = evidence_NV[:, 3 * C + 2 : 4 * C + 3], np.flatnonzero(found_NK.any(axis=1))
        novelty_N = learned.novelty.scores(looks)
        together = learned.novelty.scores_together(looks[among_N], found_NK[among_N], kind_C)
        novelty_N[among_N] = np.minimum(novelty_N[among_N], together)
        novelty_N = np.round(novelty_N, DECIMALS)
        novelty, is_new_N = pa.array(novelty_N), novelty_N > LIMIT
    share_NC = np.round(share_NC, DECIMALS)
    flows_N = tally["flows"].to_numpy()
    status_N = statuses(share_NC, surprise_N, is_new_N, flows_N, labels, settings)
    order_NC = np.argsort(-share_NC, axis=1, kind="stable")
    share_NC = np.take_along_axis(share_NC, order_NC, axis=1)
    classes = _classes(labels, known_devices)
    several = _several(sure_N2C, found_NK & (status_N != UNKNOWN)[:, np.newaxis], kind_C, classes, settings)
    status_N = np.where(pc.list_value_length(several).to_numpy() > 0, SEVERAL, status_N)
    is_known_N = status_N == KNOWN
    best = pa.array(order_NC[:, 0], mask=~is_known_N)
    columns = [
        tally["device_id"].combine_chunks(),
        pa.array(status_N, pa.string()),
        *(names.take(best) for names in classes.values()),
        pa.array(share_NC[:, 0]),
        _runners_up(labels, order_NC, share_NC, is_known_N.astype(np.int64)),
        several,
        novelty,
        pa.array(flows_N),
    ]
    return pa.table(columns, schema=VOTES)


def watched(votes: pa.Table, watchlist: config.Watchlist) -> pa.Array:
    """bool (N,): devices whose label, vendor or type is on the watch list, at a confidence that it names.

    Only known devices have any of the three, and each of several behind one address, at its own confidence.
    """
    several = one_chunk(votes["several"])
    device_P = pc.list_parent_indices(several).to_numpy()
    hit_N = _listed(votes, watchlist)
    hit_N[device_P[_listed(pa.RecordBatch.from_struct_array(several.flatten()), watchlist)]] = True
    return pa.array(hit_N)


def _listed(rows: pa.Table | pa.RecordBatch, watchlist: config.Watchlist) -> np.ndarray:
    """bool of rows with label, vendor, type and confidence: the watch list has an entry for it."""
    lists = {"label": watchlist.labels, "vendor": watchlist.vendors, "type": watchlist.types}
    confidence = rows["confidence"].to_numpy()
    is_listed = np.zeros(rows.num_rows, bool)
    for column, entries in lists.items():
        for entry in entries:
            is_named = pc.fill_null(one_chunk(pc.equal(rows[column], entry.name)), False).to_numpy(False)
            is_listed |= is_named & (confidence >= entry.lowest) & (confidence <= entry.highest)
    return is_listed


def names_of_several(kinds: pa.StructArray) -> pa.Array:
    """What each of several is called: its label; of look-alikes of which none is named, vendor and type."""
    by_kind = pc.binary_join_element_wise(kinds.field("vendor"), kinds.field("type"), " ")
    return pc.coalesce(kinds.field("label"), by_kind)


def _kinds_found(
    count_NC: np.ndarray, kind_C: np.ndarray, settings: config.Census, learned: Learned | None
) -> np.ndarray:
    """(N, K) the kinds behind an address where there are two or more; ``count_NC``: flows that are sure of each."""
    K = kind_C.max(initial=-1) + 1
    if learned is None or learned.confusion is None:
        return np.zeros((len(count_NC), K), bool)
    found_NK = learned.confusion.found(count_NC @ members(kind_C), settings.several_flows, settings.several_chance)
    return found_NK & (found_NK.sum(axis=1, keepdims=True) > 1)


def _several(
    sure_N2C: np.ndarray,
    found_NK: np.ndarray,
    kind_C: np.ndarray,
    classes: Mapping[str, pa.Array],
    settings: config.Census,
) -> pa.Array:
    """The kinds found behind each device's address, as CENSUS lists them; empty where there are none.

    The confidence is the mean probability among the flows that are sure of the kind. It is that of one class, which is
    then named, if that has ``min_confidence`` alone; else of the kind, of which vendor and type are known.
    """
    N, C = len(sure_N2C), len(kind_C)
    count_NK = sure_N2C[:, :C] @ members(kind_C)
    device_P, kind_P = np.nonzero(found_NK)
    order_P = np.lexsort((-count_NK[device_P, kind_P], device_P))  # of a device those with most flows first
    device_P, kind_P = device_P[order_P], kind_P[order_P]
    is_in_kind_PC = kind_C == kind_P[:, np.newaxis]
    mean_PC = np.where(is_in_kind_PC, sure_N2C[device_P, C:], 0) / count_NK[device_P, kind_P][:, np.newaxis]
    class_P, best_P = mean_PC.argmax(axis=1), np.round(mean_PC.max(axis=1, initial=0), DECIMALS)
    is_named_P = (best_P >= settings.min_confidence) | (is_in_kind_PC.sum(axis=1) == 1)
    found = {name: values.take(pa.array(class_P)) for name, values in classes.items()}
    found["label"] = pc.if_else(is_named_P, found["label"], None)
    found["confidence"] = pa.array(np.where(is_named_P, best_P, np.round(mean_PC.sum(axis=1), DECIMALS)))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(device_P, minlength=N))]).astype(np.int32)
    structs = pa.StructArray.from_arrays(list(found.values()), names=list(found))
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def _classes(labels: Sequence[str], known_devices: Mapping[str, Mapping[str, str | None]]) -> dict[str, pa.Array]:
    """Label, vendor and type of each class; null what the device list leaves empty."""
    told = {name: [known_devices.get(label, {}).get(name) or None for label in labels] for name in ("vendor", "type")}
    return {name: pa.array(values, pa.string()) for name, values in {"label": labels, **told}.items()}


def _matrix(lists: pa.Array | pa.ChunkedArray, columns: int) -> np.ndarray:
    """(N, columns) of N lists of that length."""
    values: np.ndarray = one_chunk(lists).flatten().to_numpy(zero_copy_only=False).reshape(-1, columns)
    return values


def _runners_up(labels: Sequence[str], order_NC: np.ndarray, share_NC: np.ndarray, start_N: np.ndarray) -> pa.Array:
    """Up to three classes with any evidence from rank ``start_N`` on, as CENSUS lists them."""
    rank_NT = start_N[:, None] + np.arange(_RUNNERS_UP)
    within_NT = rank_NT < len(labels)
    rank_NT = np.minimum(rank_NT, len(labels) - 1)
    share_NT = np.take_along_axis(share_NC, rank_NT, axis=1)
    listed_NT = within_NT & (share_NT > 0)
    names = pa.array(labels, pa.string()).take(pa.array(np.take_along_axis(order_NC, rank_NT, axis=1)[listed_NT]))
    structs = pa.StructArray.from_arrays([names, pa.array(share_NT[listed_NT])], names=["label", "confidence"])
    offsets = np.concatenate([[0], np.cumsum(listed_NT.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs)
