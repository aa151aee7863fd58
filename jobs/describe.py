"""Study: figures of each label's traffic."""

from iotid.cli.command import run_job
from iotid.cli.describe import main

if __name__ == "__main__":
    run_job(main)
