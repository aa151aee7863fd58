"""Step 7: score a capture date's flows with the champion, one row per device."""

from iotid.cli.command import run_job
from iotid.cli.take_census import main

if __name__ == "__main__":
    run_job(main)
