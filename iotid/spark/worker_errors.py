"""Errors that come back from other processes: as JSON behind a mark that only this process and its workers know.

Spark and torchrun hand back text, in which the names of captures stand. So nothing of that text is believed but what
follows the mark, and JSON in ASCII has no line break and no control character, whatever a name holds.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from iotid import errors, messages
from iotid.errors import IotidError

In = TypeVar("In")
Out = TypeVar("Out")

_MARK = f"iotid-{secrets.token_hex(16)}:"


class Raised(Exception):  # noqa: N818 - the error is what it tells of
    """In a worker, in place of an exception: its text is the mark and the JSON."""


def mark() -> str:
    """What stands before an error in the output of this process's workers; drawn anew for each process."""
    return _MARK


def in_worker(work: Callable[[Iterable[In]], Iterable[Out]]) -> Callable[[Iterable[In]], Iterator[Out]]:
    """The work of a Spark task, whose exceptions `raised_in_worker` finds, and whose files get this process's umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    return partial(_work, work, _MARK, umask)


def _work(work: Callable[[Iterable[In]], Iterable[Out]], to: str, umask: int, items: Iterable[In]) -> Iterator[Out]:
    if to == _MARK:  # no other process
        yield from work(items)
        return
    messages.to_stderr(logging.WARNING)
    os.umask(umask)
    try:
        yield from work(items)
    except Exception as fault:  # noqa: BLE001 - the driver reports it, whatever it is
        raise Raised(line(fault, to)).with_traceback(fault.__traceback__) from None


def line(fault: Exception, to: str, **more: Any) -> str:
    """The exception as a line that the process with the mark ``to`` reads by `reported`; ``more``: further fields."""
    content = {"kind": type(fault).__name__, "text": str(fault), **more}
    if isinstance(fault, OSError) and fault.errno is not None:
        content |= {
            "errno": fault.errno,
            "strerror": fault.strerror,
            "filename": fault.filename and str(fault.filename),
        }
    if isinstance(fault, ModuleNotFoundError):
        content |= {"module": fault.name}
    return to + json.dumps(content)


def reported(text: str) -> list[dict[str, Any]]:
    """The exceptions that this process's workers wrote by `line`, in the order of the text."""
    found = []
    for piece in text.split(_MARK)[1:]:
        try:
            found.append(json.JSONDecoder().raw_decode(piece)[0])
        except ValueError:  # cut off
            continue
    return found


def known(content: dict[str, Any]) -> IotidError | None:
    """The exception as one of iotid's errors, if it is one; ``content``: of `reported`."""
    kind = getattr(errors, str(content["kind"]), None)
    return kind(content["text"]) if isinstance(kind, type) and issubclass(kind, IotidError) else None


def raised_in_worker(fault: Exception) -> Exception | None:
    """The exception of iotid, of the system or of the import machinery that a worker raised behind Spark's."""
    content = next(iter(reported(str(fault))), None)
    if content is None:
        return None
    if "errno" in content:
        return OSError(content["errno"], content["strerror"], content["filename"])
    if "module" in content:
        return ModuleNotFoundError(content["text"], name=content["module"])
    return known(content)
