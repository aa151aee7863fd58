"""Output without credentials and, in lines, without control characters from a name.

A location with credentials is refused where it comes in (`holds_credentials`). All output passes `redacted`, and
every line passes `one_line`: errors when they are raised, log records, warnings, tracebacks and printed results.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from types import TracebackType

NO_CREDENTIALS = "must hold no user, password or key, because logs show it; give them by the environment (SECURITY.md)"
SECRET_NAMES = (
    r"(?i)secret|passw|pwd|passphrase|token|credential|signature|(access|account|api|private|shared)[._-]?key"
)
"""What names of secrets hold, as Python and Java read it."""

_LONG = SECRET_NAMES.removeprefix("(?i)").replace("(", "(?:")
_OF_URI = re.compile(rf"(?is)([?&;#](?:(?=[\w.%-]*?(?:{_LONG}))[\w.%-]++|key|sig|pass|pw|auth|sas)=).+")
_OF_TEXT = re.compile(rf"(?i)((?<![\w./%-])(?=[\w.-]*?(?:{_LONG}))[\w.-]++(?:=|[\"']\s*[:=]\s*[\"']?))\S+")
# C0, DEL, C1, marks and overrides of direction, separators of lines and paragraphs, bytes that are no UTF-8
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def holds_credentials(location: str) -> bool:
    """Whether a URI holds a user, with or without password, or it or another text the value of a name such as password.

    All before the last ``@`` is taken for a user, even where a password with ``/``, ``?`` or ``#`` hides it from other
    parsers; an ``@`` in a path is written ``%40``. In file: URIs and paths only names such as password are searched.
    """
    return redacted_location(location) != location


def redacted_location(location: str) -> str:
    """The location, which may have spaces in it, with *** for what it holds of credentials."""
    return _OF_TEXT.sub(r"\1***", _OF_URI.sub(r"\1***", _without_user(location)))


def redacted(text: str) -> str:
    """The text, with *** for the credentials of URIs in it, and for values of names such as ``password=``."""
    return _OF_TEXT.sub(r"\1***", re.sub(r"\S+", lambda word: redacted_location(word[0]), text))


def _without_user(word: str) -> str:
    """Step by step and without a pattern, because a chosen file name could make a pattern search for hours."""
    colon = word.find(":/")
    while colon >= 0 and "@" in word[colon:]:
        scheme, path = word[:colon], word[colon + 1 :].lstrip("/")
        start = len(word) - len(path)
        user = path.rpartition("@")[0]
        slashes = start - colon - 1
        if not _is_no_user(scheme.lower(), slashes, user):
            return f"{word[:start]}***{word[start + len(user) :]}"
        colon = word.find(":/", start)
    return word


def _is_no_user(scheme: str, slashes: int, user: str) -> bool:
    """Of a path (file:///…, sqlite:///…), models:/iotid@champion, Azure's containers, pyarrow's user anonymous."""
    if slashes != 2:  # a single one is what normalised paths make of two
        is_path = slashes > 2 or scheme.endswith("models")
        return scheme.endswith("file") or (is_path and ":" not in user)
    if scheme.endswith(("abfs", "abfss")):
        return re.fullmatch("[a-z0-9$-]+", user) is not None
    return scheme.endswith(("gs", "gcs")) and user == "anonymous"


def names_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret."""
    return re.search(SECRET_NAMES, name) is not None


def one_line(text: str) -> str:
    r"""``redacted`` on one line: a control character, and what turns the direction of text, is written as ``\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), redacted(text))


def format_traceback(fault: BaseException) -> str:
    """Type, text and traceback of an exception, safe to print; further lines of its text are indented."""
    parts = []
    for piece in traceback.format_exception(fault):
        is_frame = piece.startswith(("Traceback ", " ", "\n"))
        parts.append(("\n" if is_frame else "\n  | ").join(map(one_line, piece.rstrip("\n").split("\n"))))
    return "\n".join(parts)


class Formatter(logging.Formatter):
    """A record's message on one line, and its exception, if it has one."""

    def format(self, record: logging.LogRecord) -> str:
        line = one_line(record.getMessage())
        fault = record.exc_info[1] if record.exc_info else None
        return f"{line}\n{format_traceback(fault)}" if fault else line


def log_to_stderr(level: int = logging.INFO) -> None:
    """What iotid logs from ``level`` on, other libraries' warnings and uncaught exceptions go to stderr, safe to print.

    Handlers that the process has are left as they are.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("iotid").setLevel(level)
    warnings.formatwarning = _format_warning
    sys.excepthook = _show


def _format_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return one_line(f"{category.__name__}: {message}") + "\n"


def _show(_: type[BaseException], fault: BaseException, __: TracebackType | None) -> None:
    sys.stderr.write(format_traceback(fault) + "\n")
