"""What a device's MAC says about it: whether it is locally administered, and who registered its prefix."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.makers import Makers, contradict
from iotid.census.marks import MAKER_DIFFERS, with_mark
from iotid.labels.owner import LOCAL_DIGITS
from iotid.model.device.decide import KNOWN
from iotid.schemas import CENSUS

_MAC = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"
_IS_LOCAL = f"(?i)^.[{LOCAL_DIGITS}]"


def with_macs(devices: pa.Table, makers: Makers, vendors: Iterable[str]) -> pa.Table:
    """The devices (columns of CENSUS) with ``maker`` and ``mac_randomised``, from the MACs in ``device_id``, and the
    mark MAKER_DIFFERS.

    ``vendors``: of the device list that the model learned from; a maker that is none of them contradicts no name.
    """
    identifier = one_chunk(devices["device_id"])
    is_mac = pc.match_substring_regex(identifier, _MAC)
    is_local = pc.if_else(is_mac, pc.match_substring_regex(identifier, _IS_LOCAL), None)
    maker = makers.of(pc.if_else(pc.fill_null(is_local, True), None, identifier))
    schema = CENSUS.arrow_schema()
    devices = devices.append_column(schema.field("maker"), maker)
    devices = devices.append_column(schema.field("mac_randomised"), is_local)
    named = pc.if_else(pc.equal(one_chunk(devices["status"]), KNOWN), one_chunk(devices["vendor"]), None)
    return with_mark(devices, contradict(named, maker, vendors), MAKER_DIFFERS)
