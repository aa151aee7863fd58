"""Passes exceptions from worker processes: written as one line of JSON, read back as the exception.

Spark and torchrun return text that may include names of captures, so only JSON behind a random mark is parsed, which
this process creates and sends to its workers. JSON in ASCII has no line breaks or control characters.
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
    """Replaces an exception in a worker; its text is `WorkerError.to_line`."""


@dataclass(frozen=True)
class WorkerError:
    """An exception of another process. ``rank``: training rank; ``lost``: it failed because another rank failed."""

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
        """The line for `find_errors` of the process whose mark is ``to``."""
        return to + json.dumps(asdict(self))

    def as_iotid_error(self) -> IotidError | None:
        """The exception if it is one of iotid's errors, else None."""
        kind = getattr(errors, self.kind, None)
        return kind(self.text) if isinstance(kind, type) and issubclass(kind, IotidError) else None

    def as_exception(self) -> Exception | None:
        """The exception if it is one of iotid's errors, an OSError or a ModuleNotFoundError, else None."""
        if self.errno is not None:
            return OSError(self.errno, self.strerror, self.filename)
        if self.kind == ModuleNotFoundError.__name__:
            return ModuleNotFoundError(self.text, name=self.module)
        return self.as_iotid_error()


def mark() -> str:
    """The random mark that precedes errors in the output of this process's workers."""
    return _MARK


def find_errors(text: str) -> list[WorkerError]:
    """The errors of this process's workers in their output, in order."""
    found = []
    for rest in text.split(_MARK)[1:]:
        try:
            found.append(WorkerError(**json.JSONDecoder().raw_decode(rest)[0]))
        except (TypeError, ValueError):  # truncated, or of a worker with another version of iotid
            continue
    return found


def raised_in_worker(fault: Exception) -> Exception | None:
    """The worker's exception inside an exception of Spark, if any; see `WorkerError.as_exception`."""
    error = next(iter(find_errors(str(fault))), None)
    return error.as_exception() if error else None


def in_worker(work: Callable[[Iterable[In]], Iterable[Out]]) -> Callable[[Iterable[In]], Iterator[Out]]:
    """Wrap the function of a Spark task so that `raised_in_worker` finds its exceptions and files get the umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    return partial(_work, work, _MARK, umask)


def _work(work: Callable[[Iterable[In]], Iterable[Out]], to: str, umask: int, items: Iterable[In]) -> Iterator[Out]:
    if to == _MARK:  # runs in the same process
        yield from work(items)
        return
    messages.log_to_stderr(logging.WARNING)
    os.umask(umask)
    try:
        yield from work(items)
    except Exception as fault:  # noqa: BLE001 - the driver reports it, whatever it is
        raise Raised(WorkerError.of(fault).to_line(to)).with_traceback(fault.__traceback__) from None
