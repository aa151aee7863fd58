"""Step 3: label flows, split them three ways and write a Petastorm dataset."""

from iotid.cli.command import run_job
from iotid.cli.write_dataset import main

if __name__ == "__main__":
    run_job(main)
