"""Step 3: label flows, split them three ways and write a Petastorm dataset."""

from iotid import command
from iotid.config import Settings


@command.step("write-dataset")
@command.sites
@command.dates
@command.labels
@command.dataset
def main(
    settings: Settings, sites: tuple[str, ...], capture_dates: tuple[str, ...], labels: tuple[str, ...], dataset: str
) -> None:
    """Label the flows of every named site on every named night and write a Petastorm dataset.

    Reads the table `flows` and a device list. Writes the dataset with its training, validation and test parts.
    """
    from iotid.dataset import DeviceList, write_dataset
    from iotid.session import spark_session
    from iotid.storage import Store

    devices = DeviceList.read(*labels)
    store = Store(settings.storage.root)
    nights = [store.open("flows", {"site": site, "capture_date": day}) for site in sites for day in capture_dates]
    spark = spark_session(settings.spark, "iotid write-dataset")
    written = write_dataset(spark, store, nights, devices, settings.dataset, settings.flow, dataset)
    command.say(f"dataset: {written.metadata['summary']} -> {written.uri}")


if __name__ == "__main__":
    command.run_job(main)
