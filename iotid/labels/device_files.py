"""Reads device lists from YAML and CSV files; errors give the position of the entry."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iotid import yaml12
from iotid.config import conf_dir
from iotid.errors import LabelError, short_repr, shorten
from iotid.inputs import read_file
from iotid.labels.devices import Device

_EVIDENCE = ("mac", "ip", "path")  # a cell may hold several, separated by ;
_NULL = ("null", "~")  # in a cell: nothing
_SEPARATORS = ",;\t"
_MOST_COLUMNS = 1000
_MOST_FAULTS = 5  # of an entry, in one error
_MOST_YAML = 1 << 24  # bytes: parsing takes a minute and a gigabyte; CSV files may be larger


def read_devices(path: str | Path) -> tuple[Device, ...]:
    """The entries of a list: CSV if the name ends in .csv, else YAML. Also searched for in conf/datasets.

    Raises:
        LabelError: the file cannot be read, or an entry breaks a rule.
    """
    file = Path(path)
    if not file.exists() and (conf_dir() / "datasets" / file).is_file():
        file = conf_dir() / "datasets" / file
    try:
        is_csv = file.suffix.lower() == ".csv"
        text = (read_file(file) if is_csv else read_file(file, _MOST_YAML)).decode()
    except OSError as fault:
        raise LabelError(f"{path}: cannot be read ({fault.strerror}); give a YAML or CSV device list") from None
    except UnicodeDecodeError:
        raise LabelError(f"{path}: is not UTF-8 text; save the device list as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\ufeff", "")  # byte order marks, also of concatenated lists
    entries = _csv_entries(text, path) if is_csv else _yaml_entries(text, path)
    devices = tuple(_device(entry, f"{path}: {where}") for where, entry in entries)
    if not devices:
        raise LabelError(f"{path}: holds no devices; list at least one with its name and its mac, ip or path")
    return devices


def _yaml_entries(text: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    try:
        content = yaml12.load_text(text)
    except ValueError as fault:
        raise LabelError(f"{path}: is not valid YAML ({fault}); correct the file") from None
    if not isinstance(content, dict) or not isinstance(content.get("devices"), list):
        raise LabelError(f"{path}: must hold a list under the key `devices:`; see conf/datasets for examples")
    unknown = sorted(set(map(str, content)) - {"devices", "notes"})
    if unknown:
        raise LabelError(
            f"{path}: unknown key {short_repr(unknown[0])} beside `devices`; remove it, or put it under `notes`"
        )
    for number, entry in enumerate(content["devices"], start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        called = shorten(name) if isinstance(name, str) else short_repr(name)
        yield f"device {number}{f' ({called})' if name else ''}", entry


def _csv_entries(text: str, path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table with a header, as programs and spreadsheets write it: comma, semicolon or tab separated."""
    rows = _csv_rows(text, path)
    at, header = next(rows, (1, []))
    header = [cell.lower() for cell in header]
    columns = _columns(header, f"{path}: line {at}")
    for line, row in rows:
        cells = dict(zip(header, row, strict=False))
        name = cells.get(columns["name"], "")
        where = f"line {line} ({shorten(name) or 'no name'})"
        if [cell.lower() for cell in row[: len(header)]] == header:
            raise LabelError(
                f"{path}: line {line} repeats the header of line {at}; give every list as a file of its own"
            )
        without_name = [cell for column, cell in zip(header, row, strict=False) if not column]
        for cell in filter(None, [*row[len(header) :], *without_name]):
            raise LabelError(
                f"{path}: {where}: {short_repr(cell)} is in no column that the header of line {at} names; quote cells "
                "that hold the separator, or name the column"
            )
        entry: dict[str, Any] = {key: cells.get(column, "") for key, column in columns.items()}
        entry |= {key: "" for key, value in entry.items() if value in _NULL}
        for key in _EVIDENCE:
            entry[key] = [part.strip() for part in entry[key].split(";") if part.strip()]
        yield where, entry


def _csv_rows(text: str, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row begins, its cells, stripped) of every row that is not empty."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(_SEPARATORS, key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = rows.line_num + 1
    except csv.Error as fault:  # an unclosed quote is found only at the end
        raise LabelError(f"{path}: line {line}: is not valid CSV ({fault}); close its quotes") from None


def _columns(header: list[str], where: str) -> dict[str, str]:
    """Key of an entry -> column that it is read from; other columns are ignored."""
    if len(header) > _MOST_COLUMNS:
        raise LabelError(f"{where}: the header has {len(header):,} columns, at most {_MOST_COLUMNS:,} are read")
    for column in filter(None, header):
        if header.count(column) > 1:
            first = header.index(column)
            second = header.index(column, first + 1)
            raise LabelError(
                f"{where}: columns {first + 1} and {second + 1} are both called {short_repr(column)}; rename one"
            )
    model = next((column for column in header if column == "model" or column.startswith("device_type")), "model")
    columns = {key: key for key in Device.model_fields} | {"model": model}
    columns["name"] = "name" if "name" in header else "device"
    _refuse_misspelt(header, columns, where)
    if columns["name"] not in header or not {*_EVIDENCE} & {*header}:
        raise LabelError(
            f"{where}: the header must name a column `device` or `name` and one of `mac`, `ip`, `path`; got "
            f"{short_repr(header)}"
        )
    return columns


def _refuse_misspelt(header: Iterable[str], columns: dict[str, str], where: str) -> None:
    """Raise a LabelError for a column that may be a misspelt name of a missing one, as its cells would be ignored."""
    known = {*columns.values(), "name", "device"}
    absent = set(columns.values()) - set(header) | ({"name"} if columns["name"] not in header else set())
    for column in filter(None, header):
        if column not in known:
            words = set(re.split("[^a-z]+", column)) & absent & {"mac", "ip"}  # as in `MAC address`
            close = sorted(words) or difflib.get_close_matches(shorten(column), sorted(absent), n=1)
            if close:
                raise LabelError(
                    f"{where}: unknown column {short_repr(column)}; did you mean {close[0]}? Rename it, or remove it "
                    "if not"
                )


def _device(entry: Any, where: str) -> Device:
    try:
        return Device.model_validate(entry)
    except ValidationError as fault:
        raise LabelError(f"{where}: {'; '.join(_reason(error) for error in fault.errors()[:_MOST_FAULTS])}") from None


def _reason(error: Any) -> str:
    """One error: the key, the rule, the value."""
    key = shorten(str(error["loc"][0])) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, Device.model_fields, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use {', '.join(Device.model_fields)}"
        return f"unknown key {short_repr(key)}; {hint}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":  # raised by Device, with the value
        return ": ".join(filter(None, (key, error["msg"].removeprefix("Value error, "))))
    return f"{key}: {error['msg']}, got {short_repr(error['input'])}"
