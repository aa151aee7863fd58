"""Step 4: train the ensemble on a dataset and register it as the challenger."""

from iotid.cli.command import run_job
from iotid.cli.train import main

if __name__ == "__main__":
    run_job(main)
