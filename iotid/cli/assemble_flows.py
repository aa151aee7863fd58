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
    from iotid.cli import output
    from iotid.flows import write_flows
    from iotid.partitions import PartitionKey, Store
    from iotid.spark.session import session_for

    store = Store(settings.storage.root)
    splits = store.open("splits", PartitionKey.of_date(site, capture_date))
    spark = session_for(settings.spark, "iotid assemble-flows", size_bytes=splits.metadata["bytes"])
    written = write_flows(spark, store, site, capture_date, settings.capture, settings.flow)
    command.print_lines(*output.format_flows(written))
