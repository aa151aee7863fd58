"""From the scores of a device's flows to one row that says what the device is; pure functions on arrays.

Multiplying the flows' probabilities would be certain of everything after ten flows: a device repeats itself, and
repeats are not independent evidence. Here each distinct flow (sequence) of a device has one say, of weight
1 + ln(number of flows that repeat it), and the device's evidence is the weighted mean of the classes' probabilities (a
linear opinion pool). The share of the best class is the confidence: one odd flow cannot veto it, a thousand copies of
one flow cannot carry it alone. It errs on the side of saying nothing: with a forest trained on one laboratory and
captures of another, it named 0 of 141 devices a day, where a product with floored factors gave 107 a wrong name.

A model that learned whole sets of flows answers for the set instead (`iotid.model.vote`), and tells how unlike all
training sets it is; what its flows say is summed like probabilities, what the set's things say is told once.

Shape suffixes: N devices, R flows or rows of a part, C classes, V values that are summed (see ``width``), T runners-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.model.status import KNOWN, statuses
from iotid.schemas import CENSUS

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.bundle import Learned

TALLY = pa.schema([("device_id", pa.string()), ("flows", pa.int64()), ("evidence", pa.list_(pa.float64()))])
_COLUMNS = ("device_id", "status", "label", "vendor", "type", "confidence", "runners_up", "novelty", "flows")
VOTES = pa.schema([CENSUS.arrow_schema().field(name) for name in _COLUMNS])
_RUNNERS_UP = 3
# Scores differ in their last bits with the batch that a flow was scored in; no decision may hang on those.
_DECIMALS = 6


def width(num_classes: int) -> int:
    """V: of each class the probability, of the surprise, and of 1, whose sum is the weight, weighted sums; of each
    class what the flows say of the set, a weighted sum, too; of each class what the set's things say; the novelty."""
    return 3 * num_classes + 3


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
    ) -> None:
        """Add R pairs of a device and a distinct flow that it repeats ``repeats_R`` times.

        ``scored_R`` is the flow's row in ``probabilities`` (flows, C), ``surprise`` (flows,) and ``of_set`` (flows, C),
        what the flow says of the set that it is in.
        """
        values = np.zeros((len(surprise), width(self._classes)))
        values[:, : self._classes], values[:, self._classes], values[:, self._classes + 1] = probabilities, surprise, 1
        if of_set is not None:
            values[:, self._classes + 2 : 2 * self._classes + 2] = of_set
        self._add(device, repeats_R, 1 + np.log(repeats_R), scored_R, values)

    def add_sets(self, device: pa.Array, of_things: np.ndarray, novelty: np.ndarray) -> None:
        """Add what the things in each device's whole set say (devices, C), and how new the set is (devices,)."""
        values = np.zeros((len(novelty), width(self._classes)))
        values[:, 2 * self._classes + 2 : -1], values[:, -1] = of_things, novelty
        nothing = np.zeros(len(novelty), np.int64)
        self._add(device, nothing, np.ones(len(novelty)), np.arange(len(novelty)), values)

    def add(self, part: pa.Table | pa.RecordBatch) -> None:
        """Add what another tally holds, as its ``table()`` gave it."""
        rows = part.num_rows
        values = part["evidence"].combine_chunks() if isinstance(part, pa.Table) else part["evidence"]
        flat = values.flatten().to_numpy(zero_copy_only=False).reshape(rows, self._evidence_NV.shape[1])
        self._add(part["device_id"], part["flows"].to_numpy(), np.ones(rows), np.arange(rows), flat)

    def table(self) -> pa.Table:
        """One row of TALLY per device."""
        offsets = np.arange(len(self._devices) + 1, dtype=np.int32) * self._evidence_NV.shape[1]
        evidence = pa.ListArray.from_arrays(pa.array(offsets), pa.array(self._evidence_NV.ravel()))
        return pa.table([self._devices, pa.array(self._flows_N), evidence], schema=TALLY)

    def _add(
        self, device: pa.Array, flows_R: np.ndarray, weight_R: np.ndarray, row_R: np.ndarray, values: np.ndarray
    ) -> None:
        device_R = self._rows_of(device)
        size = len(self._devices)
        self._flows_N += np.bincount(device_R, flows_R, size).astype(np.int64)
        for column in range(values.shape[1]):  # one at a time: (R, V) at once could be many times the input
            self._evidence_NV[:, column] += np.bincount(device_R, weight_R * values[row_R, column], size)

    def _rows_of(self, device: pa.Array) -> np.ndarray:
        """The row of each device, with new rows for devices that were not there yet."""
        encoded = device.combine_chunks() if isinstance(device, pa.ChunkedArray) else device
        encoded = encoded.dictionary_encode()
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
    type; ``learned`` is what the model knows of sets; a set is new that is newer than its limit. `model.status` says
    what makes a device known. Runners-up are the classes behind the label; where there is no label, the best class is
    the first of them.
    """
    C = len(labels)
    evidence_NV = tally["evidence"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width(C))
    mean_NV = evidence_NV[:, : 2 * C + 2] / evidence_NV[:, C + 1 : C + 2]
    share_NC, surprise_N = mean_NV[:, :C], np.round(mean_NV[:, C], _DECIMALS)
    novelty, is_new_N = pa.nulls(len(tally), pa.float64()), np.zeros(len(tally), bool)
    if learned and learned.vote and learned.novelty:
        share_NC = learned.vote.decide(evidence_NV[:, 2 * C + 2 : -1], mean_NV[:, C + 2 :])
        novelty_N = np.round(evidence_NV[:, -1], _DECIMALS)
        novelty, is_new_N = pa.array(novelty_N), novelty_N > learned.novelty.limit
    share_NC = np.round(share_NC, _DECIMALS)
    flows_N = tally["flows"].to_numpy()
    status_N = statuses(share_NC, surprise_N, is_new_N, flows_N, labels, settings)
    order_NC = np.argsort(-share_NC, axis=1, kind="stable")
    share_NC = np.take_along_axis(share_NC, order_NC, axis=1)
    is_known_N = status_N == KNOWN
    best = pa.array(order_NC[:, 0], mask=~is_known_N)
    columns = [
        tally["device_id"].combine_chunks(),
        pa.array(status_N, pa.string()),
        pa.array(labels, pa.string()).take(best),
        pa.array([known_devices.get(label, {}).get("vendor") or None for label in labels], pa.string()).take(best),
        pa.array([known_devices.get(label, {}).get("type") or None for label in labels], pa.string()).take(best),
        pa.array(share_NC[:, 0]),
        _runners_up(labels, order_NC, share_NC, is_known_N.astype(np.int64)),
        novelty,
        pa.array(flows_N),
    ]
    return pa.table(columns, schema=VOTES)


def watched(votes: pa.Table, watchlist: config.Watchlist) -> pa.Array:
    """bool (N,): devices whose label, vendor or type is on the watch list, at a confidence that it names.

    Only known devices have any of the three.
    """
    lists = {"label": watchlist.labels, "vendor": watchlist.vendors, "type": watchlist.types}
    confidence_N = votes["confidence"].to_numpy()
    hit_N = np.zeros(votes.num_rows, bool)
    for column, entries in lists.items():
        for entry in entries:
            named_N = pc.fill_null(pc.equal(votes[column], entry.name), False).to_numpy()
            hit_N |= named_N & (confidence_N >= entry.lowest) & (confidence_N <= entry.highest)
    return pa.array(hit_N)


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
