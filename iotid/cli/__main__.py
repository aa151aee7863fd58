"""`python -m iotid.cli`: the same as `iotid`."""

from iotid.cli import main

main()
