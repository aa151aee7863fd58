"""The error tree. Users' mistakes exit with 2 and one line; data and machine faults exit with 1.

3 is no fault, and 4 too early: a watched device was met, there is no model yet.

Every message names the field or file, the rule, the value it got and the remedy.
"""

from iotid.messages import one_line


class IotidError(Exception):
    """Anything that iotid itself reports, as `messages.one_line`. ``exit_code`` is what a command ends with."""

    exit_code = 1

    def __init__(self, *told: object) -> None:
        super().__init__(*(one_line(each) if isinstance(each, str) else each for each in told))


class UserError(IotidError, ValueError):
    """A mistake that the person who typed the command can mend."""

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
    """A table's columns differ from its contract in schemas.py."""


class PartitionError(DataError):
    """A partition is absent, has no success marker, or could not be moved into place."""


class AccountingError(DataError):
    """Packets or rows that went in do not equal those that came out plus those counted as rejected."""


class TrainingError(IotidError):
    """Training cannot go on: a non-finite loss, or ranks that disagree."""


class WatchError(IotidError):
    """All went well, and a device on the watch list was met: ``watchlist.fail`` asks that this be seen."""

    exit_code = 3
