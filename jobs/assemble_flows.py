"""Step 2: decode the splits of a capture date and assemble their packets into flows."""

from iotid.cli.assemble_flows import main
from iotid.cli.command import run_job

if __name__ == "__main__":
    run_job(main)
