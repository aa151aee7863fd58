"""Scores a partition of flows with a trained model, one row per device.

`score_on_spark` is for partitions of any size; `score_in_process` gives the same rows of one that fits into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iotid.census.score_in_process import score_in_process
from iotid.spark.in_process import InProcess

if TYPE_CHECKING:
    from iotid import config
    from iotid.census.scored import BroadcastModel, NoModel, Scored
    from iotid.census.split_groups import EarlierGroups
    from iotid.dataset.characteristics import Encoding
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows
    from iotid.spark.in_process import Session


def score_partition(
    spark: Session,
    partition: Partition[Flows],
    model: BroadcastModel | None,
    encoding: Encoding | NoModel,
    settings: config.Census,
    earlier: EarlierGroups,
) -> Scored:
    """Identify the device kinds at each address of the flows, and group the unknown devices.

    Without a ``model`` all devices are unknown.

    Raises:
        DataError: ``unlike_kind`` is on, and the model has no held-out scores.
        SettingError: an entry of ``inside`` is not a network.
        AccountingError: not all flows of a device were scored.
    """
    if model and settings.unlike_kind:  # before any job
        devices = model.load().learned.devices
        assert devices is not None
        devices.held_out_scores()
    if isinstance(spark, InProcess):
        return score_in_process(partition, model, encoding, settings, earlier)
    from iotid.census.score_on_spark import score_on_spark  # imports Spark

    return score_on_spark(spark, partition, model, encoding, settings, earlier)
