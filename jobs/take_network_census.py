"""Step 8: sum the censuses of all sites of a capture date, with trends."""

from iotid.cli.command import run_job
from iotid.cli.take_network_census import main

if __name__ == "__main__":
    run_job(main)
