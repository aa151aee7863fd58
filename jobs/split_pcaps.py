"""Step 1: plan the splits of a capture date's captures, which workers read in parallel."""

from iotid.cli.command import run_job
from iotid.cli.split_pcaps import main

if __name__ == "__main__":
    run_job(main)
