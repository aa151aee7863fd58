"""Step 8: sum the censuses of all sites of a capture date, with trends."""

import click

from iotid.cli import command, options
from iotid.cli.options import NAME, Names
from iotid.config import Settings
from iotid.partitions import ALL_SITES

DAYS = 90


@command.step("take-network-census")
@options.date
@options.network_sites
@click.option(
    "--name", default=ALL_SITES, show_default=True, type=NAME, help="Name of the network, if there are several."
)
@click.option(
    "--days", default=DAYS, show_default=True, type=click.IntRange(1, 3660), help="Capture dates on the page of trends."
)
def main(settings: Settings, capture_date: str, sites: Names = (), name: str = ALL_SITES, days: int = DAYS) -> None:
    """Take the census of a network: all sites of one date together, unknown groups over sites, and a page of trends.

    Reads the table `census`, and `network` of earlier dates. Writes the table `network`; earlier dates whose censuses
    have changed since they were summed are summed again.
    """
    from iotid.census.network import Window, take_network_census
    from iotid.cli import output
    from iotid.partitions import Store
    from iotid.spark.session import session_for

    window = Window.of(name, capture_date, days, sites)
    store = Store(settings.storage.root)
    number = len(sites) or sum(key.capture_date == capture_date for key in store.partitions("census"))
    spark = session_for(settings.spark, "iotid take-network-census", sites=number)
    written = take_network_census(spark, store, window, settings.census)
    command.print_lines(*output.format_network(written))
