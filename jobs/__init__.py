"""One file per step for spark-submit; what it does is in iotid/cli, under the same name."""
