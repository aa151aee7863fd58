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
    """Compare the ensemble with its baselines on the same flows under every split protocol of `evaluation.protocols`.

    Reads the table `flows` into memory, a device list and, for `evaluation.packet_baselines`, the captures again.
    Trains the ensemble for every test split, on this machine. Then compares the device model with its baselines on
    synthetic households, captures merged as if behind one address (`evaluation.household_merges`). Writes tables, a
    page, numbers and answers, and a run to MLflow. Started again, it reuses ensembles already trained.
    """
    from iotid import spark_session
    from iotid.labels import DeviceList
    from iotid.partitions import Store
    from iotid.studies.steps import compare

    store, devices = Store(settings.storage.root), DeviceList.read(*labels, inside=settings.census.inside)
    spark = partial(spark_session, settings.spark, "iotid compare")
    flows = command.open_flows(store, sites, capture_dates)
    written, text = compare(spark, store, flows, devices, settings, name)
    command.print_lines(*text.split("\n"), f"comparison: {written.uri}/comparison.html")
