"""Step 3: label flows, split them three ways and write a Petastorm dataset."""

from iotid.cli.write_dataset import main
from iotid.command import run_job

if __name__ == "__main__":
    run_job(main)
