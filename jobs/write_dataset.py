"""Step 3: label flows, assign them to train, validation and test, and write a Petastorm dataset."""

from iotid.cli.command import run_job
from iotid.cli.write_dataset import main

if __name__ == "__main__":
    run_job(main)
