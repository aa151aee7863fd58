"""Scores flows that fit into memory, one row per device, without Spark: the rows that `score_on_spark` gives.

Shape suffixes: N flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.answers import identify_devices
from iotid.census.behaviour import READ as VALUE_COLUMNS
from iotid.census.identify import LIKELY, Classes, without_model
from iotid.census.left_out import OTHER_PROTOCOL
from iotid.census.scored import NoModel, Scored, with_groups, with_traffic
from iotid.census.tally_in_process import (
    conflicting_macs,
    distinct_flows,
    is_outside_time_window,
    left_out_of,
    traffic_by_device,
    values_of,
)
from iotid.census.totals import expected_of_scores
from iotid.flows import partition_files
from iotid.labels.hosts import READ as OWNER_COLUMNS
from iotid.labels.hosts import name_devices
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.schemas import FLOWS

if TYPE_CHECKING:
    from iotid import config
    from iotid.census.scored import BroadcastModel
    from iotid.census.split_groups import EarlierGroups
    from iotid.dataset.characteristics import Encoding
    from iotid.model.bundle import Predictor
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows

_OF_VALUES = tuple(name for name in VALUE_COLUMNS if name not in ("device_id", "address"))
_OF_TRAFFIC = ("protocol", "client_bytes", "server_bytes", "first_seen", "last_seen")
COLUMNS = tuple(dict.fromkeys([*OWNER_COLUMNS, *_OF_VALUES, *_OF_TRAFFIC]))
"""Columns of FLOWS that `score_flows` reads, beside the model's and CONFLICT_COLUMNS."""
CONFLICT_COLUMNS = ("address_conflict", "vlan", "capture_file")


@dataclass(frozen=True)
class Devices:
    """Scored devices (`Scored`), and PAYLOADS_AND_PORTS of all of them."""

    scored: Scored
    values: pa.Table


def score_in_process(
    partition: Partition[Flows],
    model: BroadcastModel | None,
    encoding: Encoding | NoModel,
    settings: config.Census,
    earlier: EarlierGroups,
) -> Scored:
    """As `score.score_partition`."""
    columns = list(dict.fromkeys([*COLUMNS, *CONFLICT_COLUMNS, *encoding.columns]))
    schema = pa.schema([FLOWS.arrow_schema().field(name) for name in columns])
    batches = (batch for file in partition_files([partition]) for batch in file.read(columns))
    flows = pa.concat_tables(
        [schema.empty_table(), *(pa.Table.from_batches([batch]).cast(schema) for batch in batches)]
    ).combine_chunks()
    predictor = model.load() if model else None
    joins_files = partition.metadata["settings"]["flow"]["join_files"]
    return score_flows(flows, predictor, encoding, settings, earlier, joins_files=joins_files).scored


def score_flows(
    flows: pa.Table,
    predictor: Predictor | None,
    encoding: Encoding | NoModel,
    settings: config.Census,
    earlier: EarlierGroups,
    *,
    joins_files: bool | None = None,
) -> Devices:
    """The devices in ``flows`` (schemas.FLOWS: COLUMNS and the model's), which are of one site.

    ``joins_files``: the setting ``flow.join_files`` of the flows, which then have CONFLICT_COLUMNS; None: addresses
    that several MACs use at the same time get no mark.

    Raises:
        SettingError: an entry of ``census.inside`` is not a network.
        AccountingError: not all flows of a device were scored.
    """
    inside = Networks(settings.inside)
    site = Site(inside, find_routers([_InMemory(flows)], inside)[_InMemory.site])
    named = name_devices(flows, site)
    is_read = pc.is_in(flows["protocol"], value_set=pa.array(encoding.protocols, flows["protocol"].type))
    outcome = pc.if_else(one_chunk(is_read), named.reason, OTHER_PROTOCOL)
    device = pc.if_else(pc.is_null(outcome), pc.coalesce(named.mac, named.ip), None)
    traffic = traffic_by_device(flows, device, named.ip)
    expected = None
    if isinstance(encoding, NoModel) or predictor is None:
        identified = without_model(*(one_chunk(traffic[name]) for name in ("device_id", "flows")))
    else:
        distinct = distinct_flows(flows, device, encoding)
        scores = identify_devices(predictor, distinct, encoding.distinct_columns, settings)
        expected = expected_of_scores(scores, Classes.of(encoding.labels, encoding.devices))
        identified = scores.drop_columns(LIKELY.names)
    conflicting = pa.array([], pa.string())
    if joins_files is not None:
        conflicting = conflicting_macs(flows, device, named.ip, site, joins_files=joins_files)
    devices = with_traffic(identified, traffic, conflicting)
    values = values_of(flows, device, named.ip)

    def of_devices(unknown: pa.Array) -> pa.Table:
        return values.filter(pc.is_in(values["device_id"], value_set=unknown))

    devices, groups = with_groups(devices, of_devices, earlier, settings.min_similarity)
    left_out = left_out_of(flows, outcome, named.mac, named.ip, traffic["device_id"])
    total = pc.sum(devices["flows"]).as_py() or 0
    of_other_dates = int(np.count_nonzero(is_outside_time_window(flows)))
    return Devices(Scored(devices, groups, total, left_out, of_other_dates, expected), values)


@dataclass(frozen=True)
class _InMemory:
    """Flows as `find_routers` reads them."""

    flows: pa.Table
    site = ""

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        yield from self.flows.select(list(columns)).to_batches()
