"""Steps 1, 2 and 7 for many sites in one application: from captures to each site's census."""

from __future__ import annotations

import click

from iotid.cli import command, options
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("ingest-sites")
@options.captures_of_sites
@options.date
@options.sites_with_captures
@options.census_labels
@click.option("--again", is_flag=True, help="Repeat also the steps whose captures and settings have not changed.")
@options.strict
def main(
    settings: Settings, captures: str, capture_date: str, sites: Names = (), labels: Names = (), again: bool = False
) -> None:
    """Split, assemble and take the census of many sites of one date in one Spark application.

    Does what split-pcaps, assemble-flows and take-census do for each site, several sites at a time. A step is left out
    if it was done with the same inputs, settings and version. A site that fails stops no other: it is named at the end,
    and the same command repeats it. Reads the captures and what take-census reads. Writes the tables `splits`, `flows`
    and `census`.
    """
    from iotid.cli.sites import ingest_sites

    ingest_sites(settings, captures, capture_date, sites, labels, again=again)
