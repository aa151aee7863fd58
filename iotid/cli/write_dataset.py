"""Step 3: label flows, assign them to train, validation and test, and write a Petastorm dataset."""

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("write-dataset")
@options.sites
@options.dates
@options.skip_absent
@options.labels_if_any
@options.dataset
def main(
    settings: Settings, sites: Names, capture_dates: Names, labels: Names, dataset: str, skip_absent: bool = False
) -> None:
    """Label the flows of all sites and dates given and write a Petastorm dataset.

    Reads the table `flows`, a device list, and what persons said about groups (`iotid name`), which is used where the
    list has no label. Writes the dataset with its training, validation and test splits, and prints listed devices
    without a flow, unlisted hosts and contradictions.
    """
    from iotid.cli import output
    from iotid.dataset import write_dataset
    from iotid.labels import DeviceList
    from iotid.labels.named_devices import read_named_devices
    from iotid.labels.names import check_names
    from iotid.partitions import Store
    from iotid.spark.session import session_for

    devices = DeviceList.read(*labels, inside=settings.census.inside)
    store = Store(settings.storage.root)
    flows = command.open_flows(store, sites, capture_dates, skip_absent=skip_absent)
    devices = devices.with_named(read_named_devices(store, [each.key for each in flows]))
    check_names(devices, settings.dataset, settings.promotion, settings.watchlist)
    spark = session_for(settings.spark, "iotid write-dataset", flows=sum(each.metadata["rows"] for each in flows))
    written = write_dataset(spark, store, flows, devices, settings.dataset, settings.flow, dataset)
    if skip_absent:
        command.print_lines(f"partitions with flows: {len(flows)} of {len(sites) * len(capture_dates)}")
    command.print_lines(*output.format_dataset(written))
