"""The exceptions of iotid and the exit codes of commands (`EXIT_CODES`).

Every message names the field or file, the rule, the value it got and the remedy.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Iterable, Mapping
from datetime import date

from iotid.messages import one_line

EXIT_CODES = {  # of every command; docs/how-to.md says what to do
    0: "done",
    1: "stored data or the machine is at fault; a second attempt may succeed, unless the line names a step to repeat",
    2: "the command line, a setting, a file or an earlier step is at fault; correct it first",
    3: "done, and a device on the watch list was found (watchlist.fail)",
    4: "there is no model yet (evaluate, promote, rollback)",
}
_NEAREST = 5  # values that an error lists
_MAX_VALUE_CHARACTERS = 80  # characters of a value
_MAX_MESSAGE_CHARACTERS = 4000  # of a message, which may quote text from elsewhere
_MAX_PRINTED_BITS = 256  # of an integer: Python refuses to print huge ones


class IotidError(Exception):
    """Base of all errors that iotid raises. Text passes `messages.one_line`; ``exit_code`` is the command's."""

    exit_code = 1

    def __init__(self, *content: object) -> None:
        super().__init__(*(_without_middle(one_line(part)) if isinstance(part, str) else part for part in content))


class UserError(IotidError, ValueError):
    """A mistake that the user can correct."""

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
    """Stored data breaks its contract."""


class NoModelError(UserError):
    """No model version has the alias yet; not a mistake before the first promotion."""

    exit_code = 4


class ServerError(UserError):
    """The tracking server did not answer within the retry time."""


class StaleError(DataError):
    """A capture changed since it was planned, or the champion changed since models were compared."""


class SpaceError(IotidError):
    """A disk is full."""


class SchemaError(DataError):
    """A table's columns differ from its contract in iotid/schemas."""


class PartitionError(DataError):
    """A partition is not what its step writes, or could not be moved into place."""


class AbsentError(PartitionError):
    """No complete partition of that key is in the store: misspelt, or its step was not run yet."""

    exit_code = 2


class AccountingError(DataError):
    """Packets or rows read differ from those written plus those counted as rejected."""


class TrainingError(IotidError):
    """Training cannot continue: a non-finite loss, or ranks with different data or settings."""


class WatchError(IotidError):
    """The step succeeded and found a device on the watch list; raised only if ``watchlist.fail`` is set."""

    exit_code = 3


class SitesError(IotidError):
    """Some of many sites failed; the others are done."""

    @classmethod
    def of(cls, errors: Mapping[str, str], exit_codes: Collection[int]) -> SitesError:
        """``errors``: of each failed site; its exit code is 2 if a second attempt helps none of them."""
        count = f"{len(errors):,} site{'s' * (len(errors) != 1)} failed"
        fault = cls(f"ingest-sites: {count}: " + "; ".join(f"{site}: {why}" for site, why in sorted(errors.items())))
        fault.exit_code = min(exit_codes)
        return fault


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()  # accepts limits only from Python 3.12 on
        self.maxlevel, self.maxstring, self.maxother = 3, _MAX_VALUE_CHARACTERS, _MAX_VALUE_CHARACTERS
        self.maxdict = self.maxlist = self.maxtuple = 8

    def repr_int(self, number: int, level: int) -> str:
        bits = number.bit_length()
        return f"a number of {bits} bits" if bits > _MAX_PRINTED_BITS else super().repr_int(number, level)


_repr = _ShortRepr()


def short_repr(value: object) -> str:
    """``repr`` of a value for error messages, at most some 80 characters whatever its size and depth."""
    return shorten(_repr.repr(value), _MAX_VALUE_CHARACTERS + 3)


def list_nearest(wanted: str, known: Iterable[str]) -> str:
    """The known values most similar to ``wanted`` on one line, and how many more there are; of dates the nearest."""
    values, day = sorted(set(known)), _as_date(wanted)
    days = [_as_date(value) for value in values]
    if day is not None and None not in days:
        distances = {value: abs((each - day).days) for value, each in zip(values, days, strict=True) if each}
        first = sorted(sorted(values, key=distances.__getitem__)[:_NEAREST])
    else:
        first = sorted(values, key=lambda value: -difflib.SequenceMatcher(None, wanted, value).ratio())[:_NEAREST]
    more = len(values) - len(first)
    return ", ".join(map(shorten, first)) + (f" and {more:,} more" if more else "")


def shorten(text: str, max_characters: int = _MAX_VALUE_CHARACTERS) -> str:
    """The text for error messages: long text ends after ``max_characters`` with an ellipsis."""
    return text if len(text) <= max_characters else f"{text[:max_characters]}…"


def _as_date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _without_middle(line: str) -> str:
    if len(line) <= _MAX_MESSAGE_CHARACTERS:
        return line
    return f"{line[: 3 * _MAX_MESSAGE_CHARACTERS // 4]} … {line[-_MAX_MESSAGE_CHARACTERS // 4 :]}"
