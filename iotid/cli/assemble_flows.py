"""Step 2: decode the splits of a capture date and assemble their packets into flows."""

from iotid.cli import command, options
from iotid.config import Settings


@command.step("assemble-flows")
@options.site
@options.date
@options.strict
def main(settings: Settings, site: str, capture_date: str) -> None:
    """Decode the splits of one site and date and assemble their packets into bidirectional flows.

    Reads the table `splits` and the captures. Writes the table `flows`, and beside it counters that account for every
    packet.
    """
    from iotid import spark_session
    from iotid.cli import output
    from iotid.flows import write_flows
    from iotid.partitions import Store

    spark = spark_session(settings.spark, "iotid assemble-flows")
    written = write_flows(spark, Store(settings.storage.root), site, capture_date, settings.capture, settings.flow)
    command.print_lines(*output.format_flows(written))
