"""The folder of the settings files, and that of the package, also if the package is in a zip."""

from __future__ import annotations

import atexit
import tempfile
import zipfile
from functools import cache
from pathlib import Path


def conf_dir() -> Path:
    """The folder of the YAML files: inside an installed wheel, or beside the package in a source tree."""
    packaged = package_dir() / "conf"
    return packaged if packaged.is_dir() else package_dir().parent / "conf"


@cache
def package_dir() -> Path:
    """The folder of the package's files; an unpacked copy if the package is in a zip (spark-submit --py-files)."""
    here = Path(__file__).parents[1]
    if here.is_dir():
        return here
    copy = tempfile.TemporaryDirectory(prefix="iotid-")
    atexit.register(copy.cleanup)
    with zipfile.ZipFile(here.parent) as archive:
        archive.extractall(copy.name)
    return Path(copy.name, here.name)
