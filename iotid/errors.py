"""The error tree and the exit codes: 2 for a user's mistake, 1 for a fault of data or machine.

3 and 4 are no faults: a device on the watch list was found; there is no model yet. Every message names the field or
file, the rule, the value it got and the remedy.
"""

from __future__ import annotations

import reprlib

from iotid.messages import one_line

_MOST_SHOWN = 80  # characters of a value
_MOST_CHARACTERS = 4000  # of a message, which may quote what others wrote
_MOST_BITS = 256  # of a number that is shown: Python refuses to print huge ones


class IotidError(Exception):
    """Anything that iotid itself reports, as `messages.one_line`. ``exit_code`` is what a command ends with."""

    exit_code = 1

    def __init__(self, *content: object) -> None:
        super().__init__(*(_bounded(one_line(each)) if isinstance(each, str) else each for each in content))


class UserError(IotidError, ValueError):
    """A mistake that the person who typed the command can correct."""

    exit_code = 2


class SettingError(UserError):
    """A setting is unknown, missing or out of its range."""


class InputError(UserError):
    """A path is missing, empty or not a capture."""


class LabelError(UserError):
    """A device list is malformed or does not fit the captures."""


class SetupError(UserError):
    """The machine lacks something that iotid needs, such as Java."""


class DataError(IotidError):
    """Stored data is not what its contract promises."""


class NoModelError(UserError):
    """The registry has no model of the asked-for alias yet: not a mistake while nothing was promoted."""

    exit_code = 4


class ServerError(UserError):
    """The tracking server does not answer, after waiting for it."""


class StaleError(DataError):
    """A capture, or the champion, is no longer what it was when something was planned or decided about it."""


class SpaceError(IotidError):
    """A disk is full."""


class SchemaError(DataError):
    """A table's columns differ from its contract in iotid/schemas."""


class PartitionError(DataError):
    """A partition is absent, has no success marker, or could not be moved into place."""


class AccountingError(DataError):
    """Packets or rows that went in do not equal those that came out plus those counted as rejected."""


class TrainingError(IotidError):
    """Training cannot go on: a non-finite loss, or ranks that disagree."""


class WatchError(IotidError):
    """The step succeeded and a device on the watch list was found, which ``watchlist.fail`` reports by an exit code."""

    exit_code = 3


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()  # takes no limits before Python 3.12
        self.maxlevel, self.maxstring, self.maxother = 3, _MOST_SHOWN, _MOST_SHOWN
        self.maxdict = self.maxlist = self.maxtuple = 8

    def repr_int(self, number: int, level: int) -> str:
        bits = number.bit_length()
        return f"a number of {bits} bits" if bits > _MOST_BITS else super().repr_int(number, level)


_short = _Short()


def short_repr(value: object) -> str:
    """A value as errors show it: as Python writes it, cut to some 80 characters whatever its size and depth."""
    return shorten(_short.repr(value), _MOST_SHOWN + 3)


def shorten(text: str, most: int = _MOST_SHOWN) -> str:
    """Text as errors show it: its first characters, where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def _bounded(line: str) -> str:
    if len(line) <= _MOST_CHARACTERS:
        return line
    return f"{line[: 3 * _MOST_CHARACTERS // 4]} … {line[-_MOST_CHARACTERS // 4 :]}"
