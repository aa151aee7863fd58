"""Undo a promotion."""

from iotid.cli import command
from iotid.config import Settings


@command.step("rollback")
def main(settings: Settings) -> None:
    """Make the previous champion the champion again.

    Reads the registry. Writes only its alias `champion`: the next census uses the previous champion.
    """
    from iotid.tracking import Registry, champion

    replaced, former = champion.rollback(Registry(settings.tracking, settings.storage.root))
    command.print_lines(f"rollback: version {former} is the champion again, in place of version {replaced}")
