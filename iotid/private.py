"""Folders that nobody but this user can put anything into: for code that is run, and for files that are read back."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


def ensure_private(folder: Path) -> bool:
    """Make the folder (0700) where it is absent; whether it is a folder and no link, ours, and no other's to write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and is_ours and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def user_folder() -> Path:
    """This user's folder in the temporary one. It may be absent or another user's: check with `ensure_private`."""
    return Path(tempfile.gettempdir()) / f"iotid-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@functools.cache
def temporary_folder() -> Path:
    """A private folder that this user's next process finds again; a new one where somebody else has taken its name."""
    usual = user_folder()
    if ensure_private(usual):
        usual.chmod(0o700)
        return usual
    fresh = Path(tempfile.mkdtemp(prefix="iotid-"))
    _log.warning(
        "%s: is a link, another user's, or open to others; %s is used, and found by no later run", usual, fresh
    )
    return fresh
