"""Study: figures of each label's traffic."""

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("describe")
@options.sites
@options.dates
@options.labels
@options.result
def main(settings: Settings, sites: Names, capture_dates: Names, labels: Names, name: str) -> None:
    """Draw what distinguishes the devices: mean and entropy of each flow's lengths and windows, by label.

    Reads the table `flows` and a device list. Writes figures (box plots of every label, and the entropy's distribution
    within groups of labels of one vendor and type), the counts behind them, the pairs of packets that most captures of
    a label have and those of others do not, and a page of all. Prints each label's most telling pair.
    """
    from iotid.cli.progress import progress
    from iotid.labels import DeviceList
    from iotid.partitions import Store
    from iotid.spark.session import session_for
    from iotid.studies.steps import DESCRIPTION, describe

    store, devices = Store(settings.storage.root), DeviceList.read(*labels, inside=settings.census.inside)
    flows = command.open_flows(store, sites, capture_dates)
    number = sum(each.metadata["rows"] for each in flows)
    spark = session_for(settings.spark, "iotid describe", flows=number)
    with progress(f"describe: counting the values of {number:,} flows"):
        written, figures, pairs = describe(spark, store, flows, devices, settings.dataset, settings.flow, name)
    command.print_lines(*pairs)
    command.print_lines(*(f"figure: {written.uri}/{figure}" for figure in figures))
    command.print_lines(f"description: {written.uri}/{DESCRIPTION}")
