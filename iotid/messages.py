"""Output without credentials and without control characters.

A location with credentials is refused on input (`holds_credentials`). All output passes `redacted`, and every line
passes `one_line`: errors when they are raised, log records, warnings, tracebacks and printed results.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from types import TracebackType

NO_CREDENTIALS = (
    "must not contain a user, password or key, because logs show it; set them in the environment (SECURITY.md)"
)
SECRET_NAMES = (
    r"(?i)secret|passw|pwd|passphrase|token|credential|signature|(access|account|api|private|shared)[._-]?key"
)
"""Pattern in the names of secrets, valid in Python and Java."""

_SECRET_WORDS = SECRET_NAMES.removeprefix("(?i)").replace("(", "(?:")
_SECRET_IN_URI = re.compile(rf"(?is)([?&;#](?:(?=[\w.%-]*?(?:{_SECRET_WORDS}))[\w.%-]++|key|sig|pass|pw|auth|sas)=).+")
_SECRET_IN_TEXT = re.compile(
    rf"(?i)((?<![\w./%-])(?=[\w.-]*?(?:{_SECRET_WORDS}))[\w.-]++(?:=|[\"']\s*[:=]\s*[\"']?))\S+"
)
# C0, DEL, C1, direction marks and overrides, line and paragraph separators, bytes that are not UTF-8
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def holds_credentials(location: str) -> bool:
    """Whether a URI contains a user (with or without password), or any text contains a pair such as ``password=x``.

    Everything before the last ``@`` counts as the user, because a password with ``/``, ``?`` or ``#`` misleads other
    parsers; write an ``@`` in a path as ``%40``. In file: URIs and paths only pairs such as ``password=x`` count.
    """
    return redacted_location(location) != location


def redacted_location(location: str) -> str:
    """The location with *** in place of credentials. It may contain spaces."""
    return _SECRET_IN_TEXT.sub(r"\1***", _SECRET_IN_URI.sub(r"\1***", _without_user(location)))


def redacted(text: str) -> str:
    """The text with *** in place of credentials in URIs and of values after names such as ``password=``."""
    return _SECRET_IN_TEXT.sub(r"\1***", re.sub(r"\S+", lambda word: redacted_location(word[0]), text))


def _without_user(word: str) -> str:
    """Searches without a regular expression: a malicious file name could make one backtrack for hours."""
    colon = word.find(":/")
    while colon >= 0 and "@" in word[colon:]:
        scheme, path = word[:colon], word[colon + 1 :].lstrip("/")
        start = len(word) - len(path)
        user = path.rpartition("@")[0]
        slashes = start - colon - 1
        if not _has_no_user(scheme.lower(), slashes, user):
            return f"{word[:start]}***{word[start + len(user) :]}"
        colon = word.find(":/", start)
    return word


def _has_no_user(scheme: str, slashes: int, user: str) -> bool:
    """Paths (file:///…, sqlite:///…), models:/iotid@champion, Azure containers, pyarrow's user anonymous."""
    if slashes != 2:  # path normalisation turns two into one
        is_path = slashes > 2 or scheme.endswith("models")
        return scheme.endswith("file") or (is_path and ":" not in user)
    if scheme.endswith(("abfs", "abfss")):
        return re.fullmatch("[a-z0-9$-]+", user) is not None
    return scheme.endswith(("gs", "gcs")) and user == "anonymous"


def names_secret(name: str) -> bool:
    """Whether the name of a setting suggests that its value is a secret."""
    return re.search(SECRET_NAMES, name) is not None


def one_line(text: str) -> str:
    r"""``redacted`` on one line; control characters and direction marks are escaped, as in ``\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), redacted(text))


def format_traceback(fault: BaseException) -> str:
    """The traceback of an exception, safe to print; further lines of its message are indented."""
    parts = []
    for piece in traceback.format_exception(fault):
        is_frame = piece.startswith(("Traceback ", " ", "\n"))
        parts.append(("\n" if is_frame else "\n  | ").join(map(one_line, piece.rstrip("\n").split("\n"))))
    return "\n".join(parts)


class Formatter(logging.Formatter):
    """Formats a record's message on one line, followed by its traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = one_line(record.getMessage())
        fault = record.exc_info[1] if record.exc_info else None
        return f"{line}\n{format_traceback(fault)}" if fault else line


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write iotid's log from ``level`` on, other libraries' warnings and uncaught exceptions safely to stderr.

    Existing log handlers are kept.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("iotid").setLevel(level)
    warnings.formatwarning = _format_warning
    sys.excepthook = _print_uncaught


def _format_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return one_line(f"{category.__name__}: {message}") + "\n"


def _print_uncaught(_: type[BaseException], fault: BaseException, __: TracebackType | None) -> None:
    sys.stderr.write(format_traceback(fault) + "\n")
