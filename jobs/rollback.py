"""Undo a promotion."""

from iotid.cli.command import run_job
from iotid.cli.rollback import main

if __name__ == "__main__":
    run_job(main)
