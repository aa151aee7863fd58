"""The commands `compare` and `describe`: read partitions, run the study, write a partition of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from iotid import config
from iotid.baselines import device_flows
from iotid.dataset import LabelledFlows
from iotid.labels import DeviceList, owner
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas.metadata import Flows
from iotid.studies import compare as comparison
from iotid.studies import describe as traffic
from iotid.studies import description_text, document, figures, telling_pairs
from iotid.studies.households import run as households
from iotid.tracking import Registry
from iotid.tracking.runs import Description, start_run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.spark.in_process import Session

DESCRIPTION = "description.html"


def compare(
    start_spark: Callable[[], SparkSession],
    store: Store,
    flows: Sequence[Partition[Flows]],
    devices: DeviceList,
    settings: config.Settings,
    name: str,
) -> tuple[Partition, str]:
    """Compare the ensemble with its baselines under every split protocol; return the partition of ``comparisons`` and
    its text.

    ``flows``: partitions of ``flows``, which are read into memory. The numbers are also logged as a run.
    """
    of_packets = set(settings.evaluation.packet_baselines) - {"etei"}
    dates = {partition.key.capture_date for partition in flows}
    spark = start_spark() if len(dates) > 1 or of_packets else None
    further = (*owner.READ, *device_flows.COLUMNS) if settings.evaluation.capture_baselines else ()
    labelled = LabelledFlows.of_partitions(spark, flows, devices, settings.dataset, settings.flow, further)
    packets = None
    if spark and of_packets:
        splits = [store.open("splits", partition.key) for partition in flows]
        packets = comparison.read_device_traffic(spark, splits, labelled, settings.capture)
    fingerprint = comparison.fingerprint(settings, flows, devices)
    work = store.working_folder("runs", f"compare-{name}", fingerprint)
    results = comparison.compare(labelled, settings, work, packets)
    of_households = households.compare_methods(labelled, settings)
    folder, text = comparison.write(results, work, of_households, name)
    all_scores = [result.scores for result in results]
    key = PartitionKey.named(name)
    with store.write("comparisons", key) as staged:
        staged.add_folder(folder)
        staged.metadata = {"hash": fingerprint, "protocols": settings.evaluation.protocols}
    sections = [settings.model, settings.training, settings.dataset, settings.evaluation]
    registry = Registry(settings.tracking, settings.storage.root)
    description = Description(
        "Comparison",
        f"The ensemble and its baselines identify each device's {settings.dataset.label}, under the split protocols "
        f"{', '.join(settings.evaluation.protocols)}. The tables are the artifact `comparison/comparison.md`.",
    )
    tags = {"step": "compare", "hash": fingerprint, "device_list": devices.source}
    run = start_run(registry, f"compare-{name}", sections, tags, description)
    run.log_metrics(comparison.flat(all_scores))
    if of_households:
        run.log_metrics(comparison.flat_households(of_households))
    run.log_artifacts(folder, "comparison")
    run.end()
    return store.open("comparisons", key), text


def describe(
    spark: Session,
    store: Store,
    flows: Sequence[Partition[Flows]],
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
    name: str,
) -> tuple[Partition, list[str], list[str]]:
    """Draw the distributions of the devices' traffic, and write a page with them; return the partition of
    ``descriptions``, its figures' names, and in a line for each label its most telling pair of packets."""
    found, pairs = traffic.describe(spark, flows, devices, settings, flow)
    groups = traffic.similar_labels(found, devices, settings.label)
    key = PartitionKey.named(name)
    with TemporaryDirectory() as work, store.write("descriptions", key) as staged:
        drawn = figures.draw_traffic(found, groups, Path(work))
        blocks = description_text.pair_blocks(pairs)
        blocks += description_text.blocks(found, groups, {file: Path(work, file) for file in drawn})
        subtitle = "What distinguishes the devices: each flow's first packets, by label."
        page = document.page(f"Description {name}", subtitle, blocks)
        Path(work, DESCRIPTION).write_text(page, encoding="utf-8")
        staged.add_folder(work)
        staged.write_json("traffic.json", traffic.to_json(found))
        staged.write_json("pairs.json", telling_pairs.to_json(pairs))
        staged.metadata = {"figures": drawn, "nights": [partition.key for partition in flows]}
    return store.open("descriptions", key), drawn, description_text.pair_lines(pairs)
