"""Step 5: score the challenger, the champion and the baselines on a dataset's test split."""

from iotid.cli.command import run_job
from iotid.cli.evaluate import main

if __name__ == "__main__":
    run_job(main)
