"""What a table is: its name, version, and columns with type and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iotid.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """``type``: a pyarrow alias (``string``, ``int32``), ``timestamp`` (µs, UTC), ``date``, or ``list<…>`` of one."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


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
