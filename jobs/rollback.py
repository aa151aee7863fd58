"""Beside the steps: undo a promotion."""

from iotid.cli.rollback import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
