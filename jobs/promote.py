"""Step 6: a written policy compares challenger and champion; the registry's alias moves, or does not."""

from iotid.cli.promote import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
