"""Compiled kernels find a place that is writable and ours: beside the module, in a user cache, or a private folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from iotid.capture import jit

_KERNEL = """
from tiny.jit import kernel

@kernel
def add(a, b):
    return a + b
"""
_RUN = "from tiny.work import add; add(1, 2); print(add.stats.cache_hits, *add._cache.cache_path.split('/'))"


def _package(folder: Path) -> Path:
    """A package with one kernel and the module under test, as a wheel carries it."""
    (folder / "tiny").mkdir(parents=True)
    source = Path(jit.__file__).read_text(encoding="utf-8")
    (folder / "tiny" / "jit.py").write_text(source, encoding="utf-8")
    (folder / "tiny" / "__init__.py").write_text("")
    (folder / "tiny" / "work.py").write_text(_KERNEL)
    return folder


def _run(path: Path, tmp_path: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    clean |= {"PYTHONPATH": str(path), "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", _RUN], env=clean, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernel__is_kept_beside_its_module_and_loaded_by_the_next_process(tmp_path: Path) -> None:
    package = _package(tmp_path / "plain")
    assert "tiny __pycache__ kernels-" in _run(package, tmp_path)
    assert ": 1" in _run(package, tmp_path).partition("{")[2]
    before = set((package / "tiny" / "__pycache__").glob("kernels-*"))
    (package / "tiny" / "work.py").write_text(_KERNEL.replace("a + b", "a - b"))
    _run(package, tmp_path)
    assert len(set((package / "tiny" / "__pycache__").glob("kernels-*")) - before) == 1


def test_kernel__of_a_zipped_package_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    plain = _package(tmp_path / "plain")
    for name in ("tiny.zip", "tiny-1-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for source in (plain / "tiny").glob("*.py"):
                archive.write(source, f"tiny/{source.name}")
    assert ".cache iotid kernels-" in _run(tmp_path / "tiny.zip", tmp_path)
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    assert "mine iotid kernels-" in _run(wheel, tmp_path, XDG_CACHE_HOME=str(tmp_path / "mine"))


def test_kernel__without_a_home_is_kept_in_a_private_temporary_folder(tmp_path: Path) -> None:
    plain = _package(tmp_path / "plain")
    (tmp_path / "home").write_text("a file where the home should be")
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        for source in (plain / "tiny").glob("*.py"):
            archive.write(source, f"tiny/{source.name}")
    assert " iotid-" in _run(tmp_path / "tiny.zip", tmp_path)


def test_is_ours__a_folder_that_strangers_may_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert not jit._is_ours(shared)
    assert jit._is_ours(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    assert not jit._is_ours(tmp_path / "file")


def test_kernels__agree_without_the_jit() -> None:
    """The fuzzing tests where the kernels run as plain Python: they are what they read as."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/capture/test_fuzz.py"]
    command += [
        "-k",
        "mutated and (0 or 1)",
        "-W",
        "ignore:overflow encountered:RuntimeWarning",
    ]  # digests wrap by design
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
