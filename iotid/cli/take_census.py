"""Step 7: score a capture date's flows with the champion, one row per device."""

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("take-census")
@options.site
@options.date
@options.census_labels
def main(settings: Settings, site: str, capture_date: str, labels: Names = ()) -> None:
    """Take the census of one site and date: one row per device, changes since the previous census, and a page.

    Reads the table `flows` and the registry's champion; before there is one, all devices are unknown, in groups with
    similar traffic. With --labels each row says which device of the list it is, and whether that is what was found.
    Writes the table `census`. With watchlist.fail, it then ends with exit code 3 if it found a watched device.
    """
    from tempfile import TemporaryDirectory

    from iotid.census import check_watchlist, find_champion, take_census
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.cli import output
    from iotid.labels import DeviceList
    from iotid.partitions import PartitionKey, Store
    from iotid.spark.session import session_for
    from iotid.tracking import Registry

    read_pseudonyms(settings.census)  # fail on a missing key before scoring
    listed = DeviceList.read(*labels).devices if labels else None
    store, key = Store(settings.storage.root), PartitionKey.of_date(site, capture_date)
    registry = Registry(settings.tracking, settings.storage.root)
    champion, why_none = find_champion(registry)
    with TemporaryDirectory() as folder:
        bundle = registry.bundle(champion.number, folder) if champion else None
        spark = session_for(settings.spark, "iotid take-census", flows=store.open("flows", key).metadata["rows"])
        sections = settings.census, settings.watchlist, settings.dataset.protocols
        written = take_census(spark, store, key, champion, bundle, *sections, listed)
    command.print_lines(*output.format_census(written, why_none))
    check_watchlist(written, settings.watchlist)
