"""Step 6: make the challenger the champion if a written policy allows it."""

from iotid.cli.command import run_job
from iotid.cli.promote import main

if __name__ == "__main__":
    run_job(main)
