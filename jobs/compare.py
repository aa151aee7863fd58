"""Beside the steps: the ensemble and its rivals under several protocols, in one table."""

from iotid.cli.compare import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
