"""Writes a stored census in a format of another system."""

from typing import Any

import click

from iotid.cli import command, options
from iotid.config import Settings


@command.step("export")
@click.option("--site", type=options.NAME, help="Site whose census is exported.")
@click.option("--network", type=options.NAME, help="Network whose totals are exported, in place of one site's census.")
@options.date
@click.option(
    "--format",
    required=True,
    type=click.Choice(["csv", "jsonl", "netbox", "prometheus"]),
    help="Rows as CSV or JSON lines; proposals for NetBox's bulk import; totals as Prometheus text.",
)
@click.option("--output", type=click.Path(), help="File to write, folder for netbox. Without it: standard output.")
@click.option("--netbox-devices", type=click.Path(), metavar="FILE", help="NetBox's own export of all its devices.")
def main(settings: Settings, **asked: Any) -> None:
    """Export a census for other systems: as CSV, JSON lines, proposals for NetBox, or Prometheus text.

    Reads the table `census`, or `network`, and starts no Spark. Writes a file or a folder, and counts to stderr.
    docs/export.md describes the formats. Devices in --netbox-devices are not proposed again.
    """
    from iotid.census.export import Request, export
    from iotid.cli.output import format_counts
    from iotid.messages import one_line
    from iotid.partitions import Store

    counts = export(Store(settings.storage.root), Request(**asked))
    click.echo(one_line(f"export: {format_counts(counts) or 'nothing'} -> {asked['output'] or 'stdout'}"), err=True)
