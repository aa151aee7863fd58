"""The columns of every table, with unit and meaning, and the metadata of each table's partitions."""

from iotid.schemas.tables import *  # noqa: F403
