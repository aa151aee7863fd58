"""CSV for spreadsheets, which must not evaluate untrusted text."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

# A spreadsheet evaluates a cell that begins with = + - @, half or full width, also after invisible characters (Unicode
# separators, controls and format characters: blanks, line ends, BOM). Depending on its settings a cell also begins
# after a comma, semicolon, tab or line end
_FORMULA = r"(^|[,;\t\r\n])([\pZ\pC]*[=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])|^([\pZ\pC])"


def csv_text(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> str:
    """A header and one line per row; no column is a list.

    Text that a spreadsheet would evaluate as a formula, or that begins with an invisible character, is prefixed with an
    apostrophe.
    """
    safe = {name: without_formulas(column) for name, column in columns.items()}
    out = io.BytesIO()
    csv.write_csv(pa.table(safe), out)
    return out.getvalue().decode()


def without_formulas(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The column with an apostrophe before text that a spreadsheet would evaluate; others unchanged."""
    if not pa.types.is_string(column.type):
        return column
    return pc.replace_substring_regex(column, _FORMULA, r"\1'\2\3")
