"""Let a storage root that was copied or moved use its own artifacts."""

import click

from iotid.cli import command
from iotid.config import Settings


@command.step("relocate")
@click.option("--apply", is_flag=True, help="Change the database; without it, only say what would be changed.")
def main(settings: Settings, apply: bool) -> None:
    """Make a copied or moved storage root use its own artifacts: say what would be changed, or --apply it.

    The tracking store of a storage root has absolute artifact locations. After the root was copied or moved they still
    name the place that it came from, so every step refuses the store. This command makes them those beside the database
    `mlflow.db`. Reads and writes that database: all records in one transaction, after a copy of it
    (`mlflow.TIME.before-relocate.db`).
    The tables `splits` and `flows` name captures by their own paths, which stay. Do this in the copy, not in the
    original. The tags `dataset_uri` of runs stay: they say where the dataset was when the run read it.
    """
    from iotid.tracking.client import Server
    from iotid.tracking.locations import relocate

    server = Server(settings.tracking, settings.storage.root)
    command.print_lines(f"relocate: {relocate(server.uri, apply=apply).sentence}")
