"""Beside the steps: what each label's traffic looks like, as figures."""

from iotid.cli import command
from iotid.config import Settings


@command.step("describe")
@command.sites
@command.dates
@command.labels
@command.result
def main(
    settings: Settings, sites: tuple[str, ...], capture_dates: tuple[str, ...], labels: tuple[str, ...], name: str
) -> None:
    """Draw what tells the devices apart: mean and entropy of each flow's lengths and windows, by label.

    Reads the table `flows` and a device list. Writes figures (box plots of every label, and the entropy's distribution
    within groups of look-alikes) and the counts behind them.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from iotid import spark_session
    from iotid.labels import DeviceList
    from iotid.partitions import PartitionKey, Store
    from iotid.studies import describe as traffic
    from iotid.studies import figures

    store, devices = Store(settings.storage.root), DeviceList.read(*labels, inside=settings.census.inside)
    nights = [store.open("flows", PartitionKey.of_date(site, day)) for site in sites for day in capture_dates]
    spark = spark_session(settings.spark, "iotid describe")
    found = traffic.describe(spark, nights, devices, settings.dataset, settings.flow)
    groups = traffic.similar_labels(found, devices, settings.dataset.label)
    with TemporaryDirectory() as work, store.write("descriptions", PartitionKey.named(name)) as staged:
        drawn = figures.of_traffic(found, groups, Path(work))
        staged.add_folder(work)
        staged.write_json("traffic.json", traffic.to_json(found))
        staged.metadata = {"figures": drawn, "nights": [night.key for night in nights]}
    uri = store.open("descriptions", PartitionKey.named(name)).uri
    command.say(*(f"figure: {uri}/{figure}" for figure in drawn))
