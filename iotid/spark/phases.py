"""Says in the Spark UI and event log which part of a step a job belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iotid.spark.in_process import Session

_MAX_CHARACTERS = 200  # of a description; paths and names may be long


def set_phase(spark: Session | None, step: str, phase: str) -> None:
    """Describe the jobs that this thread starts from now on, until the next call, as "STEP: PHASE".

    Without a session nothing happens. Without a description Spark shows a line of its own code, the same for all jobs.
    """
    if spark is not None:
        spark.sparkContext.setJobDescription(f"{step}: {phase}"[:_MAX_CHARACTERS])
