"""Step 7: a night's flows and the champion model make one row per device."""

from iotid.cli.command import run_job
from iotid.cli.take_census import main

if __name__ == "__main__":
    run_job(main)
