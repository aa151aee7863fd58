"""Step 2: decode a night's splits and assemble their packets into flows."""

from iotid.cli.assemble_flows import main
from iotid.cli.command import run_job

if __name__ == "__main__":
    run_job(main)
