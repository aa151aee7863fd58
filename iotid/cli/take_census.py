"""Step 7: the flows of one site and capture date, and the champion, make one row per device."""

from iotid.cli import command
from iotid.config import Settings


@command.step("take-census")
@command.site
@command.date
def main(settings: Settings, site: str, capture_date: str) -> None:
    """Take the census of one night: one row per device, what changed since the census before, and a page to read.

    Reads the table `flows` and the registry's champion. Writes the table `census`. With watchlist.fail, a watched
    device makes it end with exit code 3, after that.
    """
    from tempfile import TemporaryDirectory

    from iotid import spark_session
    from iotid.census import ChampionModel, champion_of, check_watchlist, take_census
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.partitions import PartitionKey, Store
    from iotid.tracking.registry import Registry

    read_pseudonyms(settings.census)  # a missing key ends the step here, not after scoring
    registry = Registry(settings.tracking, settings.storage.root)
    version = champion_of(registry)
    with TemporaryDirectory() as folder:
        predictor, quality = registry.bundle(version, folder), registry.tags(version).get("quality")
        champion = ChampionModel(version, predictor, registry.date_of(version), quality)
        spark = spark_session(settings.spark, "iotid take-census")
        key = PartitionKey.of_date(site, capture_date)
        census = take_census(spark, Store(settings.storage.root), key, champion, settings.census, settings.watchlist)
    summary = census.metadata
    statuses = ", ".join(f"{count:,} {status}" for status, count in summary["status"].items())
    reasons = summary["flows_without_device"] | {"other_protocol": summary["flows_of_other_protocols"]}
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    marks = ", ".join(f"{count:,} {mark}" for mark, count in summary["marks"].items() if count)
    command.say(
        f"census: {summary['devices']:,} devices ({statuses}) by model version {version}; marked: "
        f"{marks or 'none'}; flows left out: {left_out or 'none'} -> {census.uri}"
    )
    check_watchlist(census, settings.watchlist)
