"""Step 6: a written policy compares challenger and champion; the registry's alias moves, or does not."""

from iotid.cli.command import run_job
from iotid.cli.promote import main

if __name__ == "__main__":
    run_job(main)
