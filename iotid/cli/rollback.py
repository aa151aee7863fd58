"""Undo a promotion."""

from iotid.cli import command
from iotid.config import Settings


@command.step("rollback")
def main(settings: Settings) -> None:
    """Make the former champion the champion again, after a promotion that turned out badly.

    Reads the registry. Writes nothing but its alias `champion`: the next census is taken with the former champion.
    """
    from iotid.tracking import Registry, champion

    replaced, former = champion.rollback(Registry(settings.tracking, settings.storage.root))
    command.print_lines(f"rollback: version {former} is the champion again, in place of version {replaced}")
