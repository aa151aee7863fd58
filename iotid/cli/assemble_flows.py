"""Step 2: decode a night's splits and assemble their packets into flows."""

from iotid.cli import command
from iotid.config import Settings


@command.step("assemble-flows")
@command.site
@command.date
@command.strict
def main(settings: Settings, site: str, capture_date: str) -> None:
    """Decode the splits of one night and assemble their packets into bidirectional flows.

    Reads the table `splits` and the captures. Writes the table `flows`, with the count of every packet beside it.
    """
    from iotid import spark_session
    from iotid.flows import QUARANTINE_FILE, write_flows
    from iotid.partitions import Store

    spark = spark_session(settings.spark, "iotid assemble-flows")
    store = Store(settings.storage.root)
    night = write_flows(spark, store, site, capture_date, settings.capture, settings.flow)
    packets = night.metadata["packets"]
    aside = ", ".join(f"{count:,} {reason}" for reason, count in sorted(packets.items()) if reason != "flow" and count)
    if night.metadata["unreadable"]:
        command.say(f"quarantine: {night.metadata['unreadable']:,} captures -> {night.uri}/{QUARANTINE_FILE}")
    if night.metadata["overlapping"]:
        command.say(f"hint: {night.metadata['overlapping']:,} captures hold packets of others, which are counted twice")
    command.say(
        f"flows: {night.metadata['rows']:,} flows of {packets.get('flow', 0):,} packets; "
        f"left aside: {aside or 'none'} -> {night.uri}"
    )
