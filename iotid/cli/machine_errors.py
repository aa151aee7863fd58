"""What faults of the machine are reported as: a full disk, a missing package, a file that may not be read."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires

from iotid.errors import IotidError, SetupError, SpaceError, UserError

_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO,
)  # fmt: skip
_WORKER_LACKS = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'$", re.MULTILINE)


def as_iotid_error(fault: Exception, *, in_worker: bool) -> IotidError | None:
    """The error to report for a fault of the machine; None if it is not one.

    ``in_worker``: it was raised in a Spark worker.
    """
    lacks = _without_package_there if in_worker else _without_extra
    found = (explain(fault) for explain in (_full_disk, lacks, _worker_without_iotid, _refused))
    return next((error for error in found if error is not None), None)


def _full_disk(fault: Exception) -> IotidError | None:
    """A full disk, in this process, in a Spark worker or in Java."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(fault, OSError) and fault.errno is not None:  # its text holds a name
        is_full = fault.errno in full
    else:
        is_full = any(os.strerror(number) in str(fault) for number in full)
    if not is_full:
        return None
    return SpaceError(
        "the disk is full: free some space below storage.root, and where Spark and Python put their temporary files "
        "(spark.local.dir, TMPDIR), then run the step again; what was there before it is unchanged"
    )


def _without_package_there(fault: Exception) -> IotidError | None:
    """A Spark worker's Python, which is not this one, lacks a package."""
    return _other_python(str(fault.name)) if isinstance(fault, ModuleNotFoundError) else None


def _worker_without_iotid(fault: Exception) -> IotidError | None:
    """The same, if it lacks too much to return an error as data: before any capture was opened."""
    lacks = _WORKER_LACKS.search(str(fault)) if type(fault).__module__.startswith(("pyspark.", "py4j.")) else None
    return lacks and _other_python(lacks[1])


def _other_python(package: str) -> IotidError:
    return SetupError(
        f"Spark's workers run a Python without {package}; set PYSPARK_PYTHON to one that has the packages of "
        "requirements.lock, at the same path on every machine"
    )


def _without_extra(fault: Exception) -> IotidError | None:
    """This Python lacks a package that an extra of iotid installs; the smallest such extra is named."""
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


def _refused(fault: Exception) -> IotidError | None:
    """The filesystem refuses a file."""
    if not isinstance(fault, OSError) or fault.errno not in _REFUSALS:
        return None
    return UserError(f"{fault}; check that the file exists, and that you may read or write it")
