"""Beside the steps: what each label's traffic looks like, as figures."""

from iotid.cli.describe import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
