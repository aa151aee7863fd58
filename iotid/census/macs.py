"""What a device's MAC says about it: whether it is locally administered, and who registered its prefix."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.labels.owner import parse_addresses
from iotid.schemas import CENSUS

_SECOND_DIGIT_IF_LOCAL = "^.[2367abefABEF]"  # IEEE 802: bit 1 of the first byte


def with_macs(devices: pa.Table) -> pa.Table:
    """The devices (columns of CENSUS) with ``maker`` and ``mac_randomised``, from the MACs in ``device_id``."""
    identifier = one_chunk(devices["device_id"])
    is_mac = pa.array(parse_addresses(identifier.to_pylist())[0] == 0)
    is_local = pc.if_else(is_mac, pc.match_substring_regex(identifier, _SECOND_DIGIT_IF_LOCAL), None)
    schema = CENSUS.arrow_schema()
    devices = devices.append_column(schema.field("maker"), pa.nulls(len(devices), pa.string()))
    return devices.append_column(schema.field("mac_randomised"), is_local)
