"""Step 1: plan the splits of a capture date's captures, which workers read in parallel."""

from iotid.cli import command, options
from iotid.config import Settings


@command.step("split-pcaps")
@options.captures
@options.site
@options.date
def main(settings: Settings, captures: str, site: str, capture_date: str) -> None:
    """Divide the captures of one site and date into splits that start and end on record boundaries.

    Reads the captures' record headers. Writes the table `splits`.
    """
    from iotid import spark_session
    from iotid.capture.splits.write import write_splits
    from iotid.cli import output
    from iotid.cli.checks import warn_of_census
    from iotid.partitions import Store
    from iotid.spark.session import runs_here

    warn_of_census(settings.census)  # hours before it runs
    spark = None if runs_here(settings.spark) else spark_session(settings.spark, "iotid split-pcaps")
    written = write_splits(spark, Store(settings.storage.root), captures, site, capture_date, settings.capture)
    command.print_lines(*output.format_splits(written))
