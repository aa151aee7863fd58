"""`iotid look`: the devices in one capture or folder, at once and without Spark."""

import click

from iotid.cli import command, options
from iotid.config import Settings, with_values


@command.step("look")
@click.argument("captures", nargs=-1, required=True, type=options.LOCATION, metavar="CAPTURE...")
@click.option("--format", "style", type=click.Choice(("table", "csv", "json")), default="table", show_default=True,
              help="Tables for a terminal, the rows of a census as CSV, or all as JSON.")  # fmt: skip
@click.option(
    "--tracking", metavar="URI", help="Tracking store whose champion names devices; as --set tracking.uri=URI."
)
@click.option("--model", type=click.Path(), metavar="FOLDER", help="Bundle (folder of a model) that names devices.")
def main(settings: Settings, captures: tuple[str, ...], style: str, tracking: str | None, model: str | None) -> None:
    """List the devices in captures: a capture file, several, folders, or URIs.

    Reads the captures on this machine, without Spark, and the champion if there is a tracking store: --tracking,
    tracking.uri, or one in storage.root. Without a model, all devices are unknown, and those with similar traffic are
    one group. Writes nothing but its output: each device with its flows, bytes, times and services, the groups, flows
    left out by reason, and packets counted. Progress is on stderr.
    """
    from iotid.census.champion import load_model
    from iotid.census.inventory import take_inventory
    from iotid.cli.checks import check_packets
    from iotid.cli.inventory_output import print_inventory
    from iotid.cli.progress import progress
    from iotid.flows.local import read_captures

    if tracking is not None:
        settings = settings.model_copy(update={"tracking": with_values(settings.tracking, uri=tracking)})
    with progress("reading captures (what is not yet compiled, is compiled first)"):
        flows = read_captures(captures, settings.flow, settings.capture)
    check_packets(flows, captures)
    with progress("identifying devices"):
        found = load_model(settings.tracking, settings.storage.root, model, settings.flow)
        sections = settings.census, settings.watchlist, settings.dataset.protocols
        inventory = take_inventory(flows, *sections, found.predictor)
    print_inventory(inventory, flows, found, style)
