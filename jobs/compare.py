"""Study: compare the ensemble with its baselines under several split protocols."""

from iotid.cli.command import run_job
from iotid.cli.compare import main

if __name__ == "__main__":
    run_job(main)
