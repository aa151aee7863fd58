"""Reads arrays from a safetensors file and checks them against a specification, the header before any content.

Each error is one line that names the array: the file is truncated; an array is missing, unknown, or of another type or
shape; a value is not finite, or so large that sums of products would overflow.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from iotid.errors import shorten
from iotid.inputs import file_type, open_without_waiting, parse_object
from iotid.schemas import typed
from iotid.schemas.typed import Count, Within

MOST_BYTES = 1 << 32  # of a file
_MOST_HEADER = 1 << 24
_LARGEST = 1e12  # its square times the longest row still fits into 32 bits
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class _Header(TypedDict):
    dtype: str
    shape: Annotated[list[Count], Within(0, 8)]
    data_offsets: Annotated[list[Count], Within(2, 2)]


@dataclass(frozen=True)
class Spec:
    """Type, shape and range of an array.

    ``dtypes``: allowed ones, as safetensors names them. ``shape``: numbers, and names of sizes that arrays share, or
    sums of both (``"D+1"``); the first array with a name sets its size. Values lie from ``least`` to ``most``, or
    are -inf, if ``or_never``.
    """

    dtypes: str
    shape: tuple[int | str, ...]
    least: float = -_LARGEST
    most: float = _LARGEST
    or_never: bool = False


def read_arrays(path: Path | str, specs: Mapping[str, Spec], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file. Arrays whose names share a prefix in ``optional`` are either all present or all
    absent.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not match ``specs``.
    """
    file, mode = open_without_waiting(path)
    with file:
        if not stat.S_ISREG(mode):
            raise ValueError(f"it is {file_type(mode)}, not a file")
        return parse_arrays(file, os.fstat(file.fileno()).st_size, specs, optional)


def parse_arrays(
    content: IO[bytes], size: int, specs: Mapping[str, Spec], optional: tuple[str, ...] = ()
) -> dict[str, NDArray[Any]]:
    """As `read_arrays`, from an open file of ``size`` bytes."""
    if size > MOST_BYTES:
        raise ValueError(f"it must have at most {MOST_BYTES:,} bytes, got {size:,}")
    head = content.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > min(size - 8, _MOST_HEADER):
        raise ValueError("its header is truncated")
    header = content.read(length)
    headers = _headers(header)
    wanted = {
        name: spec
        for name, spec in specs.items()
        if not name.startswith(optional) or any(stored.startswith(name.partition(".")[0] + ".") for stored in headers)
    }
    if missing := [name for name in wanted if name not in headers]:
        raise ValueError(f"array {missing[0]} is missing" + _more(missing))
    if foreign := [name for name in headers if name not in wanted]:
        raise ValueError(f"array {shorten(foreign[0])} is not part of a model" + _more(foreign))
    _check_shapes(headers, wanted)
    _check_offsets(headers, size - 8 - length)
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.load(head + header + content.read(size - 8 - length))
    except SafetensorError as fault:
        raise ValueError(f"it is not a safetensors file ({shorten(str(fault), 200)})") from None
    for name, spec in wanted.items():
        _check_values(name, arrays[name], spec)
    return arrays


def _headers(content: bytes) -> dict[str, _Header]:
    try:
        found = parse_object(content)
    except ValueError as fault:
        raise ValueError(f"its header is damaged ({fault})") from None
    found.pop("__metadata__", None)
    for name, header in found.items():
        typed.check(_Header, header, f"array {shorten(name)}")
        if header["dtype"] not in _BYTES:
            raise ValueError(
                f"array {shorten(name)}: dtype must be one of {', '.join(_BYTES)}, got {shorten(header['dtype'])}"
            )
    return found


def _check_offsets(headers: Mapping[str, _Header], size: int) -> None:
    """Raise a ValueError unless the arrays fill the file after its header, in order and without gaps."""
    end = 0
    for name, header in sorted(headers.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = header["data_offsets"]
        due = math.prod(header["shape"]) * _BYTES[header["dtype"]]
        if start != end or stop - start != due:
            raise ValueError(f"array {name}: must be at bytes {end} to {end + due}, got {start} to {stop}")
        if stop > size:
            raise ValueError(f"array {name}: is truncated at byte {size} of {stop}")
        end = stop
    if end != size:
        raise ValueError(f"it has {size - end:,} bytes after its last array")


def _check_shapes(headers: Mapping[str, _Header], specs: Mapping[str, Spec]) -> None:
    sizes: dict[str, tuple[int, str]] = {}  # name of a size -> the size, and the array that set it
    for name, spec in specs.items():
        header = headers[name]
        if header["dtype"] not in spec.dtypes.split():
            raise ValueError(f"array {name}: must be {' or '.join(spec.dtypes.split())}, got {header['dtype']}")
        shape = header["shape"]
        if len(shape) != len(spec.shape):
            raise ValueError(f"array {name}: must have {len(spec.shape)} dimensions, got {len(shape)}")
        for axis, (wanted, found) in enumerate(zip(spec.shape, shape, strict=True)):
            terms = [int(term) if term.isdecimal() else term for term in str(wanted).split("+")]
            unset = [term for term in terms if isinstance(term, str) and term not in sizes]
            due = sum(sizes[term][0] if isinstance(term, str) else term for term in terms if term not in unset)
            if unset and found >= due:
                sizes[str(unset[0])] = (found - due, name)
            elif unset or found != due:
                by = ", ".join(
                    dict.fromkeys(sizes[term][1] for term in terms if isinstance(term, str) and term in sizes)
                )
                along = f" along axis {axis}" * (len(shape) > 1)
                raise ValueError(f"array {name}: must have {due}{along}{f', as {by} has' if by else ''}, got {found}")


def _check_values(name: str, array: NDArray[Any], spec: Spec) -> None:
    if not array.size:
        return
    values = array[array != -np.inf] if spec.or_never else array
    if not values.size:
        return
    least, most = float(values.min()), float(values.max())  # NaN if there is one
    if not (least >= spec.least and most <= spec.most):
        kind = "finite, and " if values.dtype.kind == "f" else ""
        raise ValueError(
            f"array {name}: values must be {kind}from {spec.least:g} to {spec.most:g}, got {least:g} to {most:g}"
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
