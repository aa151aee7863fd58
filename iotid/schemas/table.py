"""What a table is: its name, version, and columns with type, unit and meaning, which travel in the Parquet files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iotid.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

# The footer key from which Spark takes the schema of a file, comments included
SPARK_ROW = b"org.apache.spark.sql.parquet.row.metadata"
_SPARK_TYPES = {
    "string": "string", "binary": "binary", "bool": "boolean", "int32": "integer", "int64": "long", "float": "float",
    "double": "double", "date32[day]": "date", "timestamp[us, tz=UTC]": "timestamp",
}  # fmt: skip
# how the meanings of numbers begin -> unit
_UNITS = (
    (r"µs since 1970 UTC", "µs since 1970 UTC"),
    (r"µs", "µs"),
    (r"(median of its devices: )?flows in an hour", "flows/h"),
    (r"median of its devices: hours", "h"),
    (r"(payload )?bytes", "bytes"),
    (r"(mean )?share", "share, 0 to 1"),
    (r"probability", "probability, 0 to 1"),
    *((rf"(new |number of (its )?)?{unit}\b", unit) for unit in ("packets", "flows", "addresses", "sites", "records")),
    (r"censuses", "censuses"),
)


@dataclass(frozen=True)
class Column:
    """``type``: a pyarrow alias (``string``, ``int32``), ``timestamp`` (µs, UTC), ``date``, or ``list<…>`` of one.

    The meaning of a number that has a unit begins with it.
    """

    name: str
    type: str
    meaning: str
    nullable: bool = False

    @property
    def unit(self) -> str | None:
        """The unit of a number, from the beginning of its meaning; of times ``UTC``; None if it has none."""
        if self.type == "timestamp":
            return "UTC"
        if not re.search("int|float", self.type):
            return None
        return next((unit for pattern, unit in _UNITS if re.match(pattern, self.meaning)), None)


@dataclass(frozen=True)
class Table:
    name: str
    version: int
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def arrow_schema(self, *, stored: bool = False) -> pa.Schema:
        """The Arrow schema; ``stored``: without the columns that are in the folder names."""
        import pyarrow as pa

        return pa.schema(
            pa.field(column.name, _arrow_type(column.type), nullable=column.nullable)
            for column in self.columns
            if not (stored and column.name in self.partition_by)
        )

    def described(self, schema: pa.Schema) -> pa.Schema:
        """The schema of a file of this table, with what readers without iotid should know.

        Fields have ``meaning`` and ``unit``, the file has ``iotid.table`` and ``iotid.version``, and Spark finds each
        meaning as the column's comment. Columns that are not of this table have none.
        """
        import pyarrow as pa

        columns = {column.name: column for column in self.columns}
        fields, of_spark = [], []
        for field in schema:
            column = columns.get(field.name)
            given = {"meaning": column.meaning, "unit": column.unit} if column else {}
            fields.append(field.with_metadata({key: text for key, text in given.items() if text}))
            comment = {"comment": _comment(column)} if column else {}
            of_spark.append(_spark_field(field.name, field.type, nullable=field.nullable, metadata=comment))
        row = json.dumps({"type": "struct", "fields": of_spark}, ensure_ascii=False)
        return pa.schema(fields, {"iotid.table": self.name, "iotid.version": str(self.version), SPARK_ROW: row})

    def describe(self, table: pa.Table) -> pa.Table:
        """The same rows under the `described` schema, to be written."""
        import pyarrow as pa

        return pa.Table.from_arrays(table.columns, schema=self.described(table.schema))

    def check(self, schema: pa.Schema) -> None:
        """Raise a SchemaError that lists all columns that are missing, unknown or of another type."""
        expected = {field.name: field.type for field in self.arrow_schema()}
        faults = [f"lacks {name} ({kind})" for name, kind in expected.items() if name not in schema.names]
        faults += [f"has unknown column {name}" for name in schema.names if name not in expected]
        faults += [
            f"{field.name} is {field.type}, must be {expected[field.name]}"
            for field in schema
            if field.name in expected and field.type != expected[field.name]
        ]
        if faults:
            raise SchemaError(f"table {self.name} (version {self.version}): {'; '.join(faults)}")


def _arrow_type(text: str) -> Any:
    import pyarrow as pa

    if text.startswith("list<"):
        return pa.list_(_arrow_type(text[5:-1]))
    special = {
        "timestamp": pa.timestamp("us", tz="UTC"),
        "date": pa.date32(),
        "runner_up": pa.struct([pa.field("label", pa.string()), pa.field("confidence", pa.float64())]),
        "kind_found": pa.struct(
            [(name, pa.string()) for name in ("kind", "label", "vendor", "type")]
            + [("confidence", pa.float64()), ("flows", pa.int64()), ("units", pa.int64())]
        ),
    }
    return special[text] if text in special else pa.type_for_alias(text)


def _comment(column: Column) -> str:
    """The meaning, with the unit unless it begins with it."""
    return (
        column.meaning
        if not column.unit or column.meaning.startswith(column.unit)
        else (f"{column.meaning} [{column.unit}]")
    )


def _spark_field(name: str, kind: pa.DataType, *, nullable: bool, metadata: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "type": _spark_type(kind), "nullable": nullable, "metadata": metadata}


def _spark_type(kind: pa.DataType) -> Any:
    """The type as Spark writes it in JSON; raises a KeyError for types that no table has."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return {"type": "array", "elementType": _spark_type(kind.value_type), "containsNull": True}
    if pa.types.is_struct(kind):
        of = [_spark_field(each.name, each.type, nullable=each.nullable, metadata={}) for each in kind]
        return {"type": "struct", "fields": of}
    return _SPARK_TYPES[str(kind)]
