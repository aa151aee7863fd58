"""Step 7: a night's flows and the champion model make one row per device."""

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
    from iotid.census import champion_of, check_watchlist, take_census
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.partitions import Store
    from iotid.tracking.registry import Registry

    read_pseudonyms(settings.census)  # a key that is not there is missed now, not when all is scored
    registry = Registry(settings.tracking, settings.storage.root)
    version = champion_of(registry)
    with TemporaryDirectory() as folder:
        predictor = registry.bundle(version, folder)
        spark = spark_session(settings.spark, "iotid take-census")
        store = Store(settings.storage.root)
        night = take_census(
            spark,
            store,
            site,
            capture_date,
            predictor,
            str(version),
            settings.census,
            settings.watchlist,
            model_date=registry.date_of(version),
            model_quality=registry.tags(version).get("quality"),
        )
    told = night.metadata
    statuses = ", ".join(f"{count:,} {status}" for status, count in told["status"].items())
    reasons = told["flows_without_device"] | {"other_protocol": told["flows_of_other_protocols"]}
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    marks = ", ".join(f"{count:,} {mark}" for mark, count in told["marks"].items() if count)
    command.say(
        f"census: {told['devices']:,} devices ({statuses}) by model version {version}; marked: "
        f"{marks or 'none'}; flows left out: {left_out or 'none'} -> {night.uri}"
    )
    check_watchlist(night, settings.watchlist)
