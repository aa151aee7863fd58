"""Study: the ensemble and its baselines under several protocols, in one table."""

from iotid.cli.command import run_job
from iotid.cli.compare import main

if __name__ == "__main__":
    run_job(main)
