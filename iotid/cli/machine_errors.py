"""Translates machine errors into iotid errors: a full disk, a missing package, a file that cannot be accessed."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires

from iotid.errors import IotidError, SetupError, SpaceError, UserError

_OS_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO,
)  # fmt: skip
_WORKER_MISSING = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'$", re.MULTILINE)


def as_iotid_error(fault: Exception, *, in_worker: bool) -> IotidError | None:
    """The error to report for an exception that the machine caused, else None.

    ``in_worker``: it was raised in a Spark worker.
    """
    lacks = _missing_in_worker if in_worker else _missing_extra
    errors = (check(fault) for check in (_full_disk, lacks, _worker_start_failed, _os_error))
    return next((error for error in errors if error is not None), None)


def _full_disk(fault: Exception) -> IotidError | None:
    """A full disk, in this process, in a Spark worker or in Java."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(fault, OSError) and fault.errno is not None:  # its text contains a file name
        is_full = fault.errno in full
    else:
        is_full = any(os.strerror(number) in str(fault) for number in full)
    if not is_full:
        return None
    return SpaceError(
        "the disk is full: free some space below storage.root and in the temporary folders of Spark and Python "
        "(spark.local.dir, TMPDIR), then run the step again; existing data is unchanged"
    )


def _missing_in_worker(fault: Exception) -> IotidError | None:
    """A package that the Python of Spark's workers lacks."""
    return _missing_package(str(fault.name)) if isinstance(fault, ModuleNotFoundError) else None


def _worker_start_failed(fault: Exception) -> IotidError | None:
    """The same, raised before the worker could load iotid's error handling."""
    lacks = _WORKER_MISSING.search(str(fault)) if type(fault).__module__.startswith(("pyspark.", "py4j.")) else None
    return lacks and _missing_package(lacks[1])


def _missing_package(package: str) -> IotidError:
    return SetupError(
        f"Spark's workers run a Python without {package}; set PYSPARK_PYTHON to one that has the packages of "
        "requirements.lock, at the same path on every machine"
    )


def _missing_extra(fault: Exception) -> IotidError | None:
    """A missing package that an extra of iotid installs; suggests the smallest such extra."""
    package = (fault.name or "").partition(".")[0] if isinstance(fault, ModuleNotFoundError) else ""
    try:
        lines = requires("iotid") or []
    except PackageNotFoundError:  # iotid is in a zip (spark-submit --py-files)
        return None
    declared = [re.match(r"([\w.-]+).*extra == ['\"](\w+)", line) for line in lines]
    sizes = Counter(match[2] for match in declared if match)
    extras_with_it = (match[2] for match in declared if match and match[1] == package)
    extras = sorted(extras_with_it, key=lambda extra: (sizes[extra], extra == "all"))
    if not extras:
        return None
    return SetupError(
        f"this command needs the package {package}, which is not installed; run: pip install 'iotid[{extras[0]}]'"
    )


def _os_error(fault: Exception) -> IotidError | None:
    """A file that the filesystem refuses to open or write."""
    if not isinstance(fault, OSError) or fault.errno not in _OS_ERRORS:
        return None
    return UserError(f"{fault}; check that the file exists, and that you may read or write it")
