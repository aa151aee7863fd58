"""Delete old partitions that no later step needs."""

import click

from iotid.cli import command, options
from iotid.cli.options import DATE, Names
from iotid.cli.take_network_census import DAYS
from iotid.config import Settings
from iotid.retention import DATED, TABLES, Selection, datasets_of_models
from iotid.retention import prune as prune_store


@command.step("prune")
@click.option("--before", type=DATE, help="Delete capture dates before this one.")
@click.option("--older-than", type=click.IntRange(1), metavar="DAYS", help="Delete capture dates longer ago than this.")
@click.option("--table", "tables", multiple=True, type=click.Choice(TABLES),
              help=f"Only this table. Repeatable. Default: {', '.join(DATED)}.")  # fmt: skip
@options.some_sites
@click.option("--network-days", default=DAYS, show_default=True, type=click.IntRange(1), help="The --days of your "
              "take-network-census: it reads the censuses of so many dates.")  # fmt: skip
@click.option("--apply", is_flag=True, help="Delete; without it, only say what would be deleted.")
def main(settings: Settings, before: str | None, older_than: int | None, tables: Names, sites: Names,
         network_days: int, *, apply: bool) -> None:  # fmt: skip
    """Delete old partitions that no later step needs: say which and how large they are, or --apply it.

    Kept, however old: of every site and table the last date before the one given, which the next date continues or is
    compared with; flows and splits of a census that is kept so, or that a dataset was made from; censuses and networks
    of dates on the network's page of trends; what a run is writing. `datasets` are deleted only with --table datasets,
    if all their dates are old and neither champion nor challenger was trained on them. With --site, `network` stays.

    Also deletes what runs that died left behind more than two days ago: `_staging`, `_trash`, versions on an object
    store. Runs, models, reports, decisions and what persons said stay. A partition is complete or absent at any moment,
    so other steps may run meanwhile. Reads all tables, and the registry for datasets. Writes nothing else.
    """
    from iotid.cli.prune_output import format_pruned
    from iotid.partitions import Store

    day = options.day_before(before, older_than)
    used = datasets_of_models(settings.tracking, settings.storage.root) if "datasets" in tables else frozenset()
    selection = Selection(day, tables or DATED, sites, network_days, used)
    pruned = prune_store(Store(settings.storage.root), selection, apply=apply)
    command.print_lines(*(f"prune: {line}" for line in format_pruned(pruned, day, apply=apply)))
