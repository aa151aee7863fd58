"""Step 7: a night's flows and the champion model make one row per device."""

from iotid.cli.take_census import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
