"""Beside the steps: the ensemble and its baselines under several protocols, in one table."""

from iotid.cli import command
from iotid.config import Settings


@command.step("compare")
@command.sites
@command.dates
@command.labels
@command.result
def main(
    settings: Settings, sites: tuple[str, ...], capture_dates: tuple[str, ...], labels: tuple[str, ...], name: str
) -> None:
    """Compare the ensemble with its baselines on the same flows under every protocol of `evaluation.protocols`.

    Reads the table `flows` into memory, a device list and, for `evaluation.packet_baselines`, the captures once more.
    Trains the ensemble anew for every test part, on this machine. Then merges captures as if behind one address, and
    compares what the device model and its baselines find there (`evaluation.household_merges`). Writes tables to read,
    the numbers and answers behind them, and a run to MLflow. Killed and started again, it goes on from the ensembles
    that it has trained.
    """
    from iotid import spark_session
    from iotid.dataset import LabelledFlows
    from iotid.labels import DeviceList
    from iotid.partitions import PartitionKey, Store
    from iotid.studies import compare as comparison
    from iotid.studies.households import run as households
    from iotid.tracking.registry import Registry

    store, devices = Store(settings.storage.root), DeviceList.read(*labels, inside=settings.census.inside)
    partitions = [store.open("flows", PartitionKey.of_date(site, day)) for site in sites for day in capture_dates]
    of_windows = set(settings.evaluation.packet_baselines) - {"etei"}
    spark = spark_session(settings.spark, "iotid compare") if len(capture_dates) > 1 or of_windows else None
    flows = LabelledFlows.of_partitions(spark, partitions, devices, settings.dataset, settings.flow)
    traffic = None
    if spark and of_windows:
        splits = [store.open("splits", partition.key) for partition in partitions]
        traffic = comparison.read_device_traffic(spark, splits, flows, settings.capture)
    fingerprint = comparison.fingerprint(settings, partitions, devices)
    work = store.working_folder("runs", f"compare-{name}", fingerprint)
    results = comparison.compare(flows, settings, work, traffic)
    of_households = households.compare_methods(flows, settings)
    shown, all_scores = comparison.write(results, work, of_households), [result.scores for result in results]
    with store.write("comparisons", PartitionKey.named(name)) as staged:
        staged.add_folder(shown)
        staged.metadata = {"hash": fingerprint, "protocols": settings.evaluation.protocols}
    registry = Registry(settings.tracking, settings.storage.root)
    sections = [settings.model, settings.training, settings.dataset, settings.evaluation]
    run = registry.start_run(f"compare-{name}", sections, {"hash": fingerprint})
    registry.log_metrics(run, comparison.flat(all_scores))
    if of_households:
        registry.log_metrics(run, comparison.flat_households(of_households))
    registry.log_artifacts(run, shown, "comparison")
    registry.end_run(run)
    text = comparison.text(all_scores, of_households)
    command.say(*text.split("\n"), f"comparison: {store.open('comparisons', PartitionKey.named(name)).uri}")
