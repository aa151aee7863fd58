"""One file per step for spark-submit; the command is in iotid/cli, under the same name."""
