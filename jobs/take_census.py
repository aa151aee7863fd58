"""Step 7: a capture date's flows and the champion make one row per device."""

from iotid.cli.command import run_job
from iotid.cli.take_census import main

if __name__ == "__main__":
    run_job(main)
