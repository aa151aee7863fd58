"""Step 3: label flows, split them three ways and write a Petastorm dataset."""

from iotid.cli import command
from iotid.config import Settings
from iotid.partitions import PartitionKey


@command.step("write-dataset")
@command.sites
@command.dates
@command.skip_absent
@command.labels
@command.dataset
def main(
    settings: Settings,
    sites: tuple[str, ...],
    capture_dates: tuple[str, ...],
    skip_absent: bool,
    labels: tuple[str, ...],
    dataset: str,
) -> None:
    """Label the flows of every named site on every named night and write a Petastorm dataset.

    Reads the table `flows` and a device list. Writes the dataset with its training, validation and test parts, and
    says which listed devices have no flow and which hosts no entry names.
    """
    from iotid import spark_session
    from iotid.dataset import write_dataset
    from iotid.errors import InputError
    from iotid.labels import DeviceList
    from iotid.labels.names import check_names
    from iotid.partitions import Store

    devices = DeviceList.read(*labels, inside=settings.census.inside)
    check_names(devices, settings.dataset, settings.promotion, settings.watchlist)
    store = Store(settings.storage.root)
    asked_for = [PartitionKey.of_date(site, day) for site in sites for day in capture_dates]
    nights = [store.open("flows", night) for night in asked_for if not skip_absent or store.exists("flows", night)]
    if not nights:
        raise InputError(f"--date: none of {len(asked_for)} nights has flows in {store.root}; assemble some first")
    spark = spark_session(settings.spark, "iotid write-dataset")
    written = write_dataset(spark, store, nights, devices, settings.dataset, settings.flow, dataset)
    if skip_absent:
        command.say(f"nights with flows: {len(nights)} of {len(asked_for)}")
    for sentence in written.metadata.get("coverage", ()):
        command.say(sentence)
    command.say(f"dataset: {written.metadata['summary']} -> {written.uri}")
