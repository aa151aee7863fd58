"""Errors of other processes: written as one line of JSON, read back as the exception that was raised.

Spark and torchrun return text in which the names of captures appear. Of that text only the JSON behind a mark is read,
which this process draws and its workers get. JSON in ASCII has no line break and no control character.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from iotid import errors, messages
from iotid.errors import IotidError

In = TypeVar("In")
Out = TypeVar("Out")

_MARK = f"iotid-{secrets.token_hex(16)}:"


class Raised(Exception):  # noqa: N818 - named for the error that it carries
    """Raised in a worker in place of an exception; its text is `WorkerError.to_line`."""


@dataclass(frozen=True)
class WorkerError:
    """An exception of another process. ``rank``, ``lost``: of a training rank, and whether it failed for another's."""

    kind: str
    text: str
    errno: int | None = None
    strerror: str | None = None
    filename: str | None = None
    module: str | None = None
    rank: int | None = None
    lost: bool = False

    @classmethod
    def of(cls, fault: Exception, *, rank: int | None = None, lost: bool = False) -> WorkerError:
        kind, text = type(fault).__name__, str(fault)
        if isinstance(fault, OSError) and fault.errno is not None:
            file = fault.filename and str(fault.filename)
            return cls(kind, text, fault.errno, fault.strerror, file, rank=rank, lost=lost)
        module = fault.name if isinstance(fault, ModuleNotFoundError) else None
        return cls(kind, text, module=module, rank=rank, lost=lost)

    def to_line(self, to: str) -> str:
        """The line that the process with the mark ``to`` finds by `find_errors`."""
        return to + json.dumps(asdict(self))

    def as_iotid_error(self) -> IotidError | None:
        """The exception as one of iotid's errors, if it is one."""
        kind = getattr(errors, self.kind, None)
        return kind(self.text) if isinstance(kind, type) and issubclass(kind, IotidError) else None

    def as_exception(self) -> Exception | None:
        """The exception, if it is of iotid, of the system or of the import machinery."""
        if self.errno is not None:
            return OSError(self.errno, self.strerror, self.filename)
        if self.kind == ModuleNotFoundError.__name__:
            return ModuleNotFoundError(self.text, name=self.module)
        return self.as_iotid_error()


def mark() -> str:
    """What precedes an error in the output of this process's workers; drawn anew for each process."""
    return _MARK


def find_errors(text: str) -> list[WorkerError]:
    """The errors that this process's workers wrote, in the order of the text."""
    found = []
    for rest in text.split(_MARK)[1:]:
        try:
            found.append(WorkerError(**json.JSONDecoder().raw_decode(rest)[0]))
        except ValueError:  # cut off
            continue
    return found


def raised_in_worker(fault: Exception) -> Exception | None:
    """The exception that a worker raised and that Spark's own carries; see `WorkerError.as_exception`."""
    error = next(iter(find_errors(str(fault))), None)
    return error.as_exception() if error else None


def in_worker(work: Callable[[Iterable[In]], Iterable[Out]]) -> Callable[[Iterable[In]], Iterator[Out]]:
    """The work of a Spark task; `raised_in_worker` finds its exceptions, and its files get this process's umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    return partial(_work, work, _MARK, umask)


def _work(work: Callable[[Iterable[In]], Iterable[Out]], to: str, umask: int, items: Iterable[In]) -> Iterator[Out]:
    if to == _MARK:  # no other process
        yield from work(items)
        return
    messages.log_to_stderr(logging.WARNING)
    os.umask(umask)
    try:
        yield from work(items)
    except Exception as fault:  # noqa: BLE001 - the driver reports it, whatever it is
        raise Raised(WorkerError.of(fault).to_line(to)).with_traceback(fault.__traceback__) from None
