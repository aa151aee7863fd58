"""What persons said about a group holds under the name that the group has now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid.census import known_groups
from iotid.census.known_groups import KnownGroups
from iotid.labels.group_names import NAME, SPLIT, GroupNames, Statement
from iotid.partitions import PartitionKey, Store
from iotid.schemas import GROUPS

NIGHT = PartitionKey.of_date("lab", "2026-01-02")


@pytest.mark.parametrize("action", [NAME, SPLIT])
def test_read__what_was_said_of_a_merged_group_holds_under_its_name_now(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "group_name": "gnow",
        "services": [],
        "protocol": [6],
        "payload_length": [70],
        "share": [1.0],
        "merged": ["gold"],
    }
    own = pa.Table.from_pylist([row], schema=GROUPS.arrow_schema())
    said = GroupNames(tuple(Statement(group, action, "anna", model="Cam") for group in ("gold", "gother")))
    monkeypatch.setattr(known_groups, "stored_groups", lambda *_: own)
    monkeypatch.setattr(known_groups.GroupNames, "read", lambda *_: said)
    earlier: Any = object()
    known = KnownGroups.read(Store(str(tmp_path)), NIGHT, earlier, None, 0.9)
    assert known.leaders["group_name"].to_pylist() == ["gnow"]
    assert set(known.named if action == NAME else known.split) == {"gnow", "gother"}
    assert not (known.split if action == NAME else known.named)
