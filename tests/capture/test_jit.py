"""Compiled kernels are cached in a folder that only this user can write: of the module, the user or a temporary one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from iotid.capture import jit

_ROOT = Path(__file__).parents[2]
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


def _run(path: Path, tmp_path: Path, code: str = _RUN, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    clean |= {"PYTHONPATH": f"{path}{os.pathsep}{_ROOT}", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    clean |= environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, cwd=tmp_path, capture_output=True, text=True, check=False
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


def test_kernel__is_loaded_without_what_only_compiling_needs(tmp_path: Path) -> None:
    package = _package(tmp_path / "plain")
    load = "import sys; from tiny.work import add; add(1, 2); print('numba.np.arraymath' in sys.modules)"
    also_new = f"{load}; print(add(1.5, 2.0), 'numba.np.arraymath' in sys.modules, len(add.stats.cache_misses))"
    assert [_run(package, tmp_path, code=load) for _ in range(2)] == ["True\n", "False\n"]
    assert _run(package, tmp_path, code=also_new) == "False\n3.5 True 1\n"


def test_kernel__is_compiled_again_when_a_helper_of_another_sub_package_changes(tmp_path: Path) -> None:
    package = _package(tmp_path / "plain")
    for folder in ("deep", "deep/first", "deep/second"):
        (package / "tiny" / folder).mkdir()
        (package / "tiny" / folder / "__init__.py").write_text("")
    helper = "from tiny.jit import kernel\n\n@kernel\ndef twice(a):\n    return 2 * a\n"
    (package / "tiny/deep/first/helper.py").write_text(helper)
    kernel = _KERNEL.replace("\n@kernel", "from tiny.deep.first.helper import twice\n\n@kernel").replace(
        "a + b", "twice(a)"
    )
    (package / "tiny/deep/second/work.py").write_text(kernel)
    run = "from tiny.deep.second.work import add; print(add(1, 2), sum(add.stats.cache_hits.values()))"
    assert [_run(package, tmp_path, code=run) for _ in range(2)] == ["2 0\n", "2 1\n"]
    (package / "tiny/deep/first/helper.py").write_text(helper.replace("2 * a", "3 * a"))
    assert _run(package, tmp_path, code=run) == "3 0\n"


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


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o707])
@pytest.mark.parametrize("inner", ["", "kernels"])
def test_kernel__a_folder_that_others_may_write_is_not_used(tmp_path: Path, mode: int, inner: str) -> None:
    package = _package(tmp_path / "plain")
    first = _run(package, tmp_path)
    (kernels,) = (package / "tiny" / "__pycache__").glob("kernels-*")
    assert kernels.stat().st_mode & 0o077 == 0
    shared = kernels if inner else kernels.parent
    shared.chmod(mode)
    assert ".cache iotid kernels-" in _run(package, tmp_path)
    shared.chmod(0o755)
    assert ": 1" in _run(package, tmp_path).partition("{")[2], first


def test_kernel__a_link_in_place_of_the_folder_is_not_used(tmp_path: Path) -> None:
    package = _package(tmp_path / "plain")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    for place in (package / "tiny" / "__pycache__", tmp_path / "home" / ".cache" / "iotid"):
        place.symlink_to(tmp_path / "elsewhere")
    assert f" iotid-{os.getuid()} kernels-" in _run(package, tmp_path)
    assert not list((tmp_path / "elsewhere").glob("kernels-*"))


def test_is_usable__a_path_that_is_a_file_is_not(tmp_path: Path) -> None:
    assert jit._is_usable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    assert not jit._is_usable(tmp_path / "file")


_HELPER = """
from tiny.jit import kernel

@kernel
def twice(a):
    return a + a

@kernel
def add(a, b):
    return twice(a) + b
"""
# Waits until all are there, so that they compile together. Prints the sum, what came from the cache, and how many of
# the others' entries cannot be read back.
_AT_ONCE = """
import pathlib, sys, time
from tiny.work import add
argument, together, name = eval(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
files = add._cache._cache_file
(together / name).touch()
while not (together / "go").exists():
    time.sleep(0.001)
total = add(argument, argument)
wrong = 0
for number in range(50):
    for other in range(8):
        if name == str(other):
            files.save((name, number), (name, number))
        elif name == "later":
            wrong += files.load((str(other), number)) != (str(other), number)
print(total, sum(add.stats.cache_hits.values()), wrong)
"""
_SIGNATURES = {"1": "3", "1.5": "4.5", "1j": "3j", "True": "3"}  # argument, and twice it plus itself


def test_kernel__eight_processes_that_start_together_save_and_load_the_right_code(
    tmp_path: Path,
) -> None:
    package = _package(tmp_path / "plain")
    (package / "tiny" / "work.py").write_text(_HELPER)
    together = tmp_path / "together"
    together.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{_ROOT}"}
    environment.pop("NUMBA_CACHE_DIR", None)

    def start(argument: str, name: str) -> Any:
        command = [sys.executable, "-c", _AT_ONCE, argument, str(together), name]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    arguments = [*_SIGNATURES, *_SIGNATURES]
    running = [start(argument, str(number)) for number, argument in enumerate(arguments)]
    deadline = time.monotonic() + 120
    while len(list(together.iterdir())) < len(running) and time.monotonic() < deadline:
        time.sleep(0.01)
    (together / "go").touch()
    for argument, process in zip(arguments, running, strict=True):
        out, err = process.communicate(timeout=120)
        assert out.split()[:1] == [_SIGNATURES[argument]], err
    for argument, expected in _SIGNATURES.items():
        out, err = start(argument, "later").communicate(timeout=120)
        assert out.split() == [expected, "1", "0"], err
    assert not list(package.rglob("*.tmp*")), "half-written files are left"


_MODES = {
    "compiled": {},
    "bounds checked": {"NUMBA_BOUNDSCHECK": "1"},
    "not compiled": {"NUMBA_DISABLE_JIT": "1"},
}


@pytest.mark.parametrize("mode", _MODES)
def test_kernels__agree_with_the_reference_in_every_mode(mode: str) -> None:
    """A part of the fuzzing tests with the kernels compiled, compiled with every index checked, and as plain Python."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/capture/test_fuzz.py"]
    command += ["-k", "(mutated and (seed0 or seed1)) or any_capture or golden"]
    command += ["-W", "ignore:overflow encountered:RuntimeWarning"]  # digests wrap by design
    environment = {**os.environ, **_MODES[mode], "IOTID_FUZZ_EXAMPLES": "25"}
    done = subprocess.run(command, env=environment, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
