"""Steps 1, 2 and 7 for many sites in one application: from captures to each site's census."""

from iotid.cli.command import run_job
from iotid.cli.ingest_sites import main

if __name__ == "__main__":
    run_job(main)
