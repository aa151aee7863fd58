"""The columns of every table, with unit and meaning, and the metadata of each table's partitions."""

from iotid.schemas.table import Column as Column
from iotid.schemas.table import Table as Table
from iotid.schemas.tables import *  # noqa: F403
