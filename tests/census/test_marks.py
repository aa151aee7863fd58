"""What in a row hints at something forged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.marks import SENTENCES, have_concurrent_kinds, with_conflicts
from iotid.config import load_settings
from iotid.model.device import Answer
from iotid.schemas import CENSUS

MAC = "02:00:00:00:00:0a"
CENSUS_SETTINGS = load_settings().census.model_copy(update={"min_flows": 2, "min_confidence": 0.6})


def _is_marked(*spans: tuple[int, int], share: float = 0.1, device: str = MAC, flows: int = 9, **more: Any) -> bool:
    """Of one address that is like a household, at which each of three kinds was seen from one time to another."""
    counts = np.zeros((1, 3), np.int64)
    begins, ends = (np.array([[span[end] for span in spans]]) for end in (0, 1))
    likely = np.array([more.get("household", [0.9, 0.9, 0.1])])
    answer = Answer(
        host=likely * 0, household=likely, log_odds=np.array([more.get("log_odds", 2.0)]), class_share=likely,
        unexplained=counts[:, 0], unknown=counts[:, 0], flows=counts, distinct=counts[:, 0], min_devices=counts,
        begins=begins, ends=ends, known_tokens=np.full(likely.shape, 3), similarity=np.zeros(likely.shape),
    )  # fmt: skip
    (is_marked,) = have_concurrent_kinds(answer, share, pa.array([device]), np.array([flows]), CENSUS_SETTINGS).tolist()
    return bool(is_marked)


NEVER = (0, -1)


def test_have_concurrent_kinds__where_two_likely_kinds_are_seen_at_the_same_time() -> None:
    assert _is_marked((10, 20), (15, 30), NEVER)
    assert _is_marked((15, 30), (10, 20), NEVER)
    assert _is_marked((10, 50), (20, 21), NEVER), "one within the other"
    assert _is_marked((10, 20), (20, 30), NEVER)
    assert not _is_marked((10, 20), (21, 30), NEVER), "one after the other"
    assert not _is_marked((10, 20), (21, 30), (5, 40)), "the third is not likely"
    assert _is_marked((10, 20), (21, 30), (5, 40), household=[0.9, 0.9, 0.7])
    assert not _is_marked((10, 20), NEVER, NEVER), "no flow is like those of the second alone"


@pytest.mark.parametrize(
    "change",
    [
        {"share": 0.5}, {"share": 1.0}, {"device": "192.168.1.5"}, {"device": "fe80::5"}, {"flows": 1},
        {"log_odds": -0.1}, {"household": [0.9, 0.5, 0.1]},
    ],
)  # fmt: skip
def test_have_concurrent_kinds__not_of_addresses_or_among_households_or_by_few_flows(
    change: dict[str, Any],
) -> None:
    spans = ((10, 20), (15, 30), NEVER)
    assert _is_marked(*spans)
    assert not _is_marked(*spans, **change)


def test_with_conflicts__marks_and_explains_the_devices_before_other_marks() -> None:
    schema = pa.schema([CENSUS.arrow_schema().field(name) for name in ("device_id", "marks", "reason")])
    columns = [["a", "b", "c"], [[], ["kinds_at_once"], []], ["So.", "Also.", "No."]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    devices = pa.table(arrays, schema=schema)
    found = with_conflicts(devices, pa.array(["b", "a", "z"]))
    assert found.schema == schema
    why = SENTENCES["address_conflict"]
    assert [list(row.values()) for row in found.to_pylist()] == [
        ["a", ["address_conflict"], f"So. {why}"],
        ["b", ["address_conflict", "kinds_at_once"], f"Also. {why}"],
        ["c", [], "No."],
    ]
    assert with_conflicts(devices, pa.array([], pa.string())).equals(devices)
