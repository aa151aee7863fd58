"""Step 1: cut the captures of one night into splits that workers read side by side."""

from iotid.cli.command import run_job
from iotid.cli.split_pcaps import main

if __name__ == "__main__":
    run_job(main)
