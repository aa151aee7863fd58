"""Folders that only this user can write to, for code that is executed and for files that are read back."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


def ensure_private(folder: Path) -> bool:
    """Create the folder (0700) if it is absent. Returns whether it is a real folder, ours, and only ours to write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and is_ours and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def user_folder() -> Path:
    """This user's folder in the system's temporary folder; may be absent or another user's: see `ensure_private`."""
    return Path(tempfile.gettempdir()) / f"iotid-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@functools.cache
def temporary_folder() -> Path:
    """A private folder that this user's processes share; a new one if another user has taken its name."""
    usual = user_folder()
    if ensure_private(usual):
        usual.chmod(0o700)
        return usual
    fresh = Path(tempfile.mkdtemp(prefix="iotid-"))
    _log.warning(
        "%s: is a link, another user's, or open to others; using %s, which no later run will find", usual, fresh
    )
    return fresh
