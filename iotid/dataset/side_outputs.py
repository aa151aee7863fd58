"""Side outputs of the jobs that write a dataset: what workers send to the driver."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from iotid.dataset.split_protocols import Summary
from iotid.spark.shuffle import read_tables

OUTCOMES, VOTES, SUMMARIES, CANDIDATES, VALUES, ROWS, SETS, TEST_SETS = (
    "outcomes", "votes", "summaries", "candidates", "values", "rows", "sets", "test_sets",
)  # fmt: skip


@dataclass
class SideOutputs:
    """The combined side outputs of one job. ``candidates``: index of an ambiguous cut -> answers of the buckets."""

    outcomes: Counter[tuple[str, str]]
    votes: list[tuple[int, str, int]]
    summaries: list[Summary]
    candidates: dict[int, list[tuple[int, Any]]]
    seen: dict[str, Counter[int]]
    rows: list[dict[str, int]]
    sets: list[pa.Table]
    test_sets: list[pa.Table]

    @staticmethod
    def of(side_outputs: pa.Table) -> SideOutputs:
        found = SideOutputs(Counter(), [], [], {}, {}, [], [], [])
        for kind, table in read_tables(side_outputs):
            if kind in (SETS, TEST_SETS):
                (found.sets if kind == SETS else found.test_sets).append(table)
                continue
            columns = [column.to_pylist() for column in table.columns if column.type != pa.list_(pa.int64())]
            arrays = [row.values.to_numpy() for row in table["positions"]] if "positions" in table.schema.names else []
            if kind == OUTCOMES:
                for outcome, label, flows in zip(*columns, strict=True):
                    found.outcomes[outcome, label] += flows
            elif kind == VOTES:
                found.votes += zip(*columns, strict=True)
            elif kind == SUMMARIES:
                found.summaries += map(Summary, *columns, arrays)
            elif kind == CANDIDATES:
                for cut, below, positions in zip(*columns, arrays, strict=True):
                    found.candidates.setdefault(cut, []).append((below, positions))
            elif kind == VALUES:
                for name, value, seen in zip(*columns, strict=True):
                    found.seen.setdefault(name, Counter())[value] += seen
            else:
                found.rows += table.to_pylist()
        return found


def table_schema(text: str) -> pa.Schema:
    """The schema of ``name type, name type, …``."""
    return pa.schema([tuple(field.split()) for field in text.split(", ")])
