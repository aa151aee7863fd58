"""`python -m iotid.cli` is `iotid`."""

from iotid.cli import main

main()
