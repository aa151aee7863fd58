"""A stored census of synthetic rows, for tests of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from iotid.cli import steps
from iotid.partitions import PartitionKey, Store
from iotid.schemas import CENSUS
from tests.census.report_tables import census_of, facts

DATE = "2026-01-10"


def store_census(root: Path, rows: list[dict[str, Any]], site: str = "lab", **more: Any) -> pa.Table:
    """Write rows (of `census_of`) as the census of the date; returns them."""
    census, store = census_of(rows), Store(str(root))
    metadata = {**facts(**more), "rows": len(census), "groups": 0}
    with store.write("census", PartitionKey.of_date(site, DATE), CENSUS.version) as staged:
        pq.write_table(census, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        staged.metadata.update(metadata)
    return census


def export(root: Path, *arguments: str, code: int = 0) -> Result:
    """Run ``iotid export`` of the date on the store."""
    asked = ["export", "--date", DATE, "--set", f"storage.root={root}", *arguments]
    answer = CliRunner().invoke(steps, asked)
    assert answer.exit_code == code, answer.output
    return answer
