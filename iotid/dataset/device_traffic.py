"""Counts a device's packets by second, direction and frame length, for baselines that classify time windows.

Spark reads the captures and counts. The size of the counts at the driver depends on how varied the listed devices'
packets are, not on their number.

Shape suffixes: R rows of counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from iotid import config
from iotid.arrow import one_chunk
from iotid.labels.device_list import DeviceList
from iotid.labels.owner import Site, is_device
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

_READ = (
    "capture_file string, timestamp timestamp, frame_length int, "
    "source_mac string, destination_mac string, source_ip string, destination_ip string"
)
_ENDS = "capture_file string, second long, frame_length int, sent boolean, mac string, ip string, sure boolean"
_KEYS = ("capture_file", "device", "second", "sent", "frame_length")


@dataclass(frozen=True)
class DeviceTraffic:
    """``table``: one row for each distinct (capture_file, device, second, sent, frame_length), in that order.

    capture_file: path of the capture (dictionary of the sorted paths); device: MAC, or the address where no MAC
    identifies the device (string); second: since 1970 UTC, the floor of the packets' times (int64); sent: whether the
    device is the packets' source (bool); frame_length: bytes on the wire (int32); packets: how many (int64); label:
    index into ``labels`` (int64).
    """

    table: pa.Table
    labels: tuple[str, ...]


def read_device_traffic(
    spark: SparkSession,
    paths: Mapping[str, Sequence[str]],
    devices: DeviceList,
    kind: str,
    labels: Sequence[str],
    capture: config.Capture,
) -> DeviceTraffic:
    """The packets of the devices in ``devices`` whose label (``kind``: name, model or type) is one of ``labels``.

    ``paths``: captures of each site by its name; ``devices`` knows the sites' routers where their flows were read
    (`DeviceList.at`).

    A packet belongs to a device if one end has one of the device's MACs and that end is a device of the site by the
    rule for flows (`iotid.labels.owner`): its address is inside the site's networks, or the MAC, not a router's, sent
    from that address in the same capture. A packet between two listed devices is in both devices' windows, whereas a
    flow has one owner. A phone's packets in a device's capture are not the device's, even if the path names the device.
    A device that lists no MAC is identified by its address. If an end shows no MAC (received packets of Linux cooked
    captures), it is the device whose MAC alone, of all listed, sent from that address in the same capture, else the one
    that lists the address. A device listed by path only has no packets here, because its end is not known.

    Entries that share a MAC are distinguished as for flows: by the capture's path (in a capture that is a device's by
    its path, no other device has packets), and by their validity at the packet's second.

    Only IP packets are counted, because the reader decodes no others; the papers' own scripts count every frame,
    including ARP and EAPOL. Duplicates that the reader drops (``capture.duplicate_window_us``) are not counted.

    Raises:
        LabelError: ``kind`` is type, and a device has none.
    """
    import pyarrow as pa

    counts = [_count(spark, own, devices, site, capture) for site, own in sorted(paths.items())]
    return label_traffic(pa.concat_tables(counts), devices, kind, labels)


def label_traffic(counts: pa.Table, devices: DeviceList, kind: str, labels: Sequence[str]) -> DeviceTraffic:
    """The rows of ``counts`` (DeviceTraffic without the label) of devices with one of ``labels``."""
    import pyarrow as pa

    rows = counts.select(["capture_file", "device"]).append_column("first_seen", _instants(counts["second"]))
    number_R = devices.match_devices(rows)
    index = {label: number for number, label in enumerate(labels)}
    label_of = np.array([*(index.get(label, -1) for label in devices.labels(kind)), -1], np.int64)
    label_R = np.where(devices.are_listed(number_R, counts["device"]), label_of[number_R], -1)
    table = counts.append_column("label", pa.array(label_R)).filter(pa.array(label_R >= 0))
    table = table.sort_by([(name, "ascending") for name in _KEYS]).select([*_KEYS, "packets", "label"])
    return DeviceTraffic(
        table.set_column(0, "capture_file", one_chunk(table["capture_file"]).dictionary_encode()), (*labels,)
    )


def _count(
    spark: SparkSession, paths: Sequence[str], devices: DeviceList, site: str, capture: config.Capture
) -> pa.Table:
    options: dict[str, Any] = {**capture.model_dump(), "tunnels": ",".join(capture.tunnels)}
    packets = spark.read.format("pcap").options(**options).schema(_READ).load(list(paths))
    # persisted: else the captures would be read a second time, for the senders of each address
    ends = _ends(packets, devices, devices.site(site)).persist()
    try:
        return _by_device(ends, devices).toArrow()
    finally:
        ends.unpersist()


def _ends(packets: DataFrame, devices: DeviceList, site: Site) -> DataFrame:
    """Packets counted at both of their ends, if the end is a device of the site and its MAC or address is listed or it
    shows no MAC."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    def end(side: str, sent: bool) -> Any:
        return F.struct(F.lit(sent).alias("sent"), *(F.col(f"{side}_{name}").alias(name) for name in ("mac", "ip")))

    both = F.explode(F.array(end("source", True), end("destination", False))).alias("end")
    second = F.unix_seconds("timestamp").alias("second")
    ends = packets.select("capture_file", second, "frame_length", both)
    ends = ends.select("capture_file", "second", "frame_length", "end.*")
    mac, ip = F.col("mac"), F.col("ip")
    known = ends.filter(mac.isNull() | mac.isin(devices.macs) | ip.isin(devices.addresses(without_mac=True)))
    at_devices = partial(_at_devices, site=site)
    counted = known.mapInArrow(in_worker(at_devices), _ENDS).groupBy(*ends.columns, "sure").count()
    of_end = Window.partitionBy("capture_file", "mac", "ip")
    return counted.withColumn("sure", F.col("sure") | F.max("sent").over(of_end)).where("sure").drop("sure")


def _at_devices(ends: Iterable[pa.RecordBatch], site: Site) -> Iterator[pa.RecordBatch]:
    """The ends that may be a device of the site; ``sure``: False for a receiver that is one only if the same end also
    sent packets."""
    import pyarrow as pa

    for batch in ends:
        ip, mac, sent_N = batch["ip"], batch["mac"], batch["sent"].to_numpy(zero_copy_only=False)
        sure_N = is_device(ip, mac, sent_N, site)
        may_N = sure_N | is_device(ip, mac, np.ones_like(sent_N), site)
        yield batch.append_column("sure", pa.array(sure_N)).filter(pa.array(may_N))


def _by_device(ends: DataFrame, devices: DeviceList) -> DataFrame:
    from pyspark.sql import functions as F

    mac, ip = F.col("mac"), F.col("ip")
    listed = mac.isin(devices.macs)
    senders = ends.filter(F.col("sent") & listed).groupBy("capture_file", "ip")
    owners = senders.agg(F.min("mac").alias("owner"), F.max("mac").alias("other")).filter("owner = other")
    by_address = ip.isin(devices.addresses(without_mac=True)) | (mac.isNull() & ip.isin(devices.addresses()))
    device = F.coalesce(F.when(listed, mac), F.when(mac.isNull(), F.col("owner")), F.when(by_address, ip))
    of_device = ends.join(F.broadcast(owners), ["capture_file", "ip"], "left").withColumn("device", device)
    return of_device.filter("device IS NOT NULL").groupBy(*_KEYS).agg(F.sum("count").alias("packets"))


def _instants(second: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return second.cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))
