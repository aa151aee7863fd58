"""Say what the devices of a group are."""

from typing import Any

import click

from iotid.cli import command, options, statements
from iotid.cli.options import Names
from iotid.config import Settings


@command.step("name")
@click.argument("group", required=False)
@statements.options
@options.some_sites
@options.some_dates
def main(settings: Settings, group: str | None, sites: Names, capture_dates: Names, **given: Any) -> None:
    """Say what GROUP is: the next census names its devices so, and the next dataset has their flows as labelled.

    GROUP is a name from the column `group_name` of a census. What is said holds for all sites and dates, later ones
    too, unless --site or --date restrict it, and until something else is said. Reads the table `census`. Writes the
    table `group_names`, a partition for each statement, with who, when and which devices.
    """
    from iotid.census.group_list import list_groups
    from iotid.cli import output
    from iotid.labels.grouped_devices import CensusesRead, state
    from iotid.partitions import Store

    store = Store(settings.storage.root)
    if statements.asks_for_list(group, given):
        command.print_lines(*output.format_groups(list_groups(CensusesRead(store, sites, capture_dates))))
    else:
        made = statements.statement_of(group, sites, capture_dates, given)
        command.print_lines(output.format_outcome(state(store, made)))
