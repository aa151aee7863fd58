"""Study: compare the ensemble with its baselines under several split protocols."""

from functools import partial

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("compare")
@options.sites
@options.dates
@options.labels
@options.result
def main(settings: Settings, sites: Names, capture_dates: Names, labels: Names, name: str) -> None:
    """Compare the ensemble with its baselines on the same flows under every protocol of `evaluation.protocols`.

    Reads the table `flows` into memory, a device list and, for `evaluation.packet_baselines`, the captures once more.
    Trains the ensemble for every test part, on this machine. Then merges captures as if behind one address, and
    compares what the device model and its baselines find there (`evaluation.household_merges`). Writes tables, the
    numbers and answers behind them, and a run to MLflow. Started again, it goes on from the ensembles that are trained.
    """
    from iotid import spark_session
    from iotid.labels import DeviceList
    from iotid.partitions import Store
    from iotid.studies.steps import compare

    store, devices = Store(settings.storage.root), DeviceList.read(*labels, inside=settings.census.inside)
    spark = partial(spark_session, settings.spark, "iotid compare")
    flows = command.open_flows(store, sites, capture_dates)
    written, text = compare(spark, store, flows, devices, settings, name)
    command.print_lines(*text.split("\n"), f"comparison: {written.uri}")
