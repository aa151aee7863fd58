"""Every table's columns with unit and meaning, and the metadata of each table's partitions."""

from iotid.schemas.tables import *  # noqa: F403
