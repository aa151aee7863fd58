"""Scored devices, and what scoring them on Spark and in this process share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.answers import check_device_model
from iotid.census.behaviour import PAYLOADS_AND_PORTS
from iotid.census.marks import with_conflicts
from iotid.census.split_groups import EarlierGroups, group_with_splits
from iotid.errors import AccountingError
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import CENSUS
from iotid.spark.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from iotid.dataset.characteristics import Encoding
    from iotid.model.bundle import Predictor
    from iotid.spark.in_process import Broadcast, Session

_TRAFFIC = ("device_id", "bytes", "first_seen", "last_seen", "addresses")
_loaded: dict[str, Predictor] = {}  # the model of this Python worker, reused by its tasks


@dataclass(frozen=True)
class BroadcastModel:
    """A trained model for the workers: its files are broadcast once, and loaded once in each Python worker."""

    files: Broadcast[tuple[bytes, str]]
    digest: str

    def load(self) -> Predictor:
        from iotid.model.bundle import Predictor

        if self.digest not in _loaded:
            _loaded.clear()
            _loaded[self.digest] = Predictor.from_bytes(*self.files.value)
        return _loaded[self.digest]


def broadcast_model(spark: Session, folder: Path) -> tuple[BroadcastModel, Encoding]:
    """Broadcast the model in ``folder`` to the workers; return it with its encoding.

    Raises what ``Predictor.load`` raises, and a DataError if the model has no device model.
    """
    from iotid.model.bundle import DESCRIPTION, WEIGHTS, Predictor

    predictor = Predictor.load(folder)
    check_device_model(predictor, f"model {folder}")
    weights, description = (folder / WEIGHTS).read_bytes(), (folder / DESCRIPTION).read_bytes()
    files = spark.sparkContext.broadcast((weights, description.decode()))
    model = BroadcastModel(files, hashlib.sha256(weights + description).hexdigest())
    if isinstance(spark, InProcess):  # this process is the worker
        _loaded.clear()
        _loaded[model.digest] = predictor
    return model, predictor.encoding


@dataclass(frozen=True)
class NoModel:
    """Stands for the encoding where there is no model: it has learned no label, and reads any flows.

    ``protocols``: IANA numbers of the protocols whose flows belong to devices.
    """

    protocols: tuple[int, ...]
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    distinct_columns: tuple[str, ...] = ()
    devices: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)

    def misfit(self, flow: Mapping[str, Any]) -> str | None:
        return None


@dataclass(frozen=True)
class Scored:
    """A partition's devices, sorted, with the columns of IDENTIFIED, traffic and group; the groups (GROUPS) of this and
    earlier censuses; and ``left_out`` (LEFT_OUT), the flows without a device.

    ``expected`` (totals.EXPECTED): sums of the probabilities of all addresses; None: not known.
    ``flows_of_other_dates``: flows that begin or end `tally.NEAR_DAYS` or more from the median time.
    """

    devices: pa.Table
    groups: pa.Table
    flows_of_devices: int
    left_out: pa.Table
    flows_of_other_dates: int = 0
    expected: pa.Table | None = None

    @property
    def flows(self) -> int:
        return self.flows_of_devices + (pc.sum(self.left_out["flows"]).as_py() or 0)


def with_traffic(identified: pa.Table, traffic: pa.Table, conflicting: pa.Array) -> pa.Table:
    """The rows of IDENTIFIED with what the devices sent (``traffic``, in the same order), and the mark of
    ``conflicting`` MACs.

    Raises:
        AccountingError: not all flows of a device were scored.
    """
    _check_counts(identified, traffic)
    schema = CENSUS.arrow_schema()
    devices = with_conflicts(identified, conflicting)
    for name in _TRAFFIC[1:]:
        devices = devices.append_column(schema.field(name), traffic[name].cast(schema.field(name).type))
    return devices


def with_groups(
    devices: pa.Table, values_of: Callable[[pa.Array], pa.Table], earlier: EarlierGroups, min_similarity: float
) -> tuple[pa.Table, pa.Table]:
    """The devices with their group (null unless they are unknown), and the groups (GROUPS).

    ``values_of``: PAYLOADS_AND_PORTS of the given devices.
    """
    unknown = devices["device_id"].filter(pc.equal(devices["status"], UNKNOWN)).combine_chunks()
    values = values_of(unknown) if len(unknown) else PAYLOADS_AND_PORTS.empty_table()
    group, groups = group_with_splits(unknown, values, earlier, min_similarity)
    return devices.append_column("group_name", group.take(pc.index_in(devices["device_id"], value_set=unknown))), groups


def _check_counts(identified: pa.Table, traffic: pa.Table) -> None:
    if not all(identified[name].equals(traffic[name]) for name in ("device_id", "flows")):
        scored, counted = (pc.sum(table["flows"]).as_py() or 0 for table in (identified, traffic))
        raise AccountingError(
            f"census: {identified.num_rows} devices with {scored} flows were scored, but {traffic.num_rows} devices "
            f"with {counted} flows are in the table flows; run it again, and report this if it happens again"
        )
