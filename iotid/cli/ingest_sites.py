"""Steps 1, 2 and 7 for many sites in one application: from captures to each site's census."""

from __future__ import annotations

import click

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("ingest-sites")
@click.option(
    "--captures",
    required=True,
    type=options.LOCATION,
    help="Folder or URI that has the captures of each site in SITE/DATE.",
)
@options.date
@click.option(
    "--site",
    "sites",
    multiple=True,
    type=options.NAME,
    callback=options.unique,
    help="Site to process. Repeatable. Default: all that have a folder SITE/DATE.",
)
@options.census_labels
@click.option("--again", is_flag=True, help="Repeat also the steps whose captures and settings have not changed.")
@options.strict
def main(
    settings: Settings,
    captures: str,
    capture_date: str,
    sites: Names = (),
    labels: Names = (),
    again: bool = False,
) -> None:
    """Split, assemble and take the census of many sites of one date in one Spark application.

    Does what split-pcaps, assemble-flows and take-census do for each site, several sites at a time. A step is left out
    if it was done with the same inputs, settings and version. A site that fails stops no other: it is named at the end,
    and the same command repeats it. Writes the tables `splits`, `flows` and `census`.
    """
    from tempfile import TemporaryDirectory

    from iotid.census import find_champion
    from iotid.census.scored import broadcast_model
    from iotid.cli import output
    from iotid.cli.checks import check_census
    from iotid.cli.sites import Shared, captures_of_sites, process_sites, size_of
    from iotid.errors import SitesError, WatchError
    from iotid.labels import DeviceList
    from iotid.partitions import PartitionKey, Store
    from iotid.spark.session import session_for
    from iotid.tracking import Registry

    check_census(settings.census)
    listed = DeviceList.read(*labels).devices if labels else None
    folders = captures_of_sites(captures, capture_date, sites)
    store, registry = Store(settings.storage.root), Registry(settings.tracking, settings.storage.root)
    champion, why_none = find_champion(registry)
    sizes = {site: size_of(folder) for site, folder in folders.items()}
    spark = session_for(settings.spark, "iotid ingest-sites", size_bytes=sum(sizes.values()))
    model = None
    if champion:
        with TemporaryDirectory() as folder:
            model, _ = broadcast_model(spark, registry.bundle(champion.number, folder))
    failed, watched = [], []
    shared = Shared(capture_date, settings, champion, model, listed, again)
    for number, outcome in enumerate(process_sites(spark, shared, folders, sizes), start=1):
        click.echo(f"[{number}/{len(folders)}] site {outcome.site}: {outcome.error or 'done'}", err=True)
        if outcome.error:
            failed.append(outcome)
            continue
        census = store.open("census", PartitionKey.of_date(outcome.site, capture_date))
        watched += [outcome.site] * bool(census.metadata["watched"])
        command.print_lines(*output.format_site(census))
    if why_none:
        command.print_lines(f"hint: {why_none}")
    command.print_lines(f"sites: {len(folders) - len(failed):,} of {len(folders):,} done")
    if failed:
        raise SitesError.of({each.site: each.error for each in failed}, {each.exit_code for each in failed})
    if watched and settings.watchlist.fail:
        raise WatchError(
            f"watchlist: all censuses are written; {len(watched):,} sites have watched devices: {', '.join(watched)}; "
            "see their pages, and set watchlist.fail=false to end without an error"
        )
