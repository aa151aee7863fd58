"""The benchmark for GPUs as a program of its own, on the CPU with tiny networks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

_PROGRAM = Path(__file__).parent / "bench" / "gpu.py"
# distributions that the program's docstring names, and torch's own
_NEEDED = {
    *("torch", "numpy", "scipy", "pyarrow", "safetensors", "pyyaml", "lazy-loader"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
}
_WITHOUT = """
import importlib.machinery, runpy, sys
class Installed:
    def find_spec(name, *rest):
        return None if name in {absent!r} else importlib.machinery.PathFinder.find_spec(name, *rest)
sys.meta_path = [Installed if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
sys.path.insert(0, {folder!r})
sys.argv = {arguments!r}
runpy.run_path({program!r}, run_name="__main__")
"""


def _not_needed() -> set[str]:
    """Top-level modules of what iotid requires and the program does not name; other packages may import theirs."""
    required = {re.split(r"[^\w.-]", each)[0].lower() for each in importlib.metadata.requires("iotid") or []}
    of_torch = {re.split(r"[^\w.-]", each)[0].lower() for each in importlib.metadata.requires("torch") or []}
    others = required - _NEEDED - of_torch - {"iotid", "requests"}
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if others.intersection(map(str.lower, names))}


def _numbers(found: Any) -> Iterator[float]:
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from _numbers(each)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the program prints where nothing is installed that its docstring does not name."""
    arguments = [str(_PROGRAM), "--device", "cpu", "--small"]
    code = _WITHOUT.format(
        absent=_not_needed(), folder=str(_PROGRAM.parent), arguments=arguments, program=str(_PROGRAM)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.ddp
def test_gpu__needs_only_what_its_docstring_names_and_measures_all(found: dict[str, Any]) -> None:
    assert {"pyspark", "numba", "pandas", "mlflow", "sklearn", "scapy"} <= _not_needed()
    docstring = _PROGRAM.read_text().split('"""')[1]
    assert all(name in docstring.split() for name in _NEEDED - {"torch"})
    assert set(found) == {
        *("machine", "small", "flows", "same_losses", "ranks", "peak_tflops", "training", "prediction"),
        *("steps", "peak_memory_mb", "seconds"),
    }
    numbers = list(_numbers(found))
    assert len(numbers) > 60
    assert all(math.isfinite(number) and number >= 0 for number in numbers)


@pytest.mark.ddp
def test_gpu__one_function_is_computed_everywhere(found: dict[str, Any]) -> None:
    same = found["same_losses"]
    assert same["float32"]["largest_difference"] == 0  # both on the CPU
    assert 0 < same["bfloat16"]["largest_difference"] < same["bfloat16"]["tolerance"]
    assert same["float32"]["within"]
    assert same["bfloat16"]["within"]
    assert [(each["backend"], each["ranks"], each["batch"]) for each in found["ranks"]] == [
        ("gloo", 1, 16),
        ("gloo", 2, 32),
    ]
    assert all(each["losses_apart"] < 1e-4 for each in found["ranks"])
    assert found["prediction"]["largest_difference"] < 1e-5  # of the plain model's probabilities


@pytest.mark.ddp
def test_gpu__numbers_agree_with_each_other(found: dict[str, Any]) -> None:
    flows = found["flows"]
    for part in (found["training"]["iotid"], *found["ranks"]):
        assert part["flows_per_s"] / part["rows_per_s"] == pytest.approx(flows["flows"] / flows["rows"])
    for part in (found["training"], found["prediction"]):
        assert part["ratio"] == pytest.approx(part["iotid"]["flows_per_s"] / part["plain"]["flows_per_s"])
    assert [(each["precision"], each["batch"]) for each in found["steps"]] == [("float32", 16), ("bfloat16", 16)]
    for each in found["steps"]:
        assert each["lstm_share"] == pytest.approx(each["lstm_ms"] / each["step_ms"])
        assert each["share_of_peak"] == pytest.approx(each["tflops"] / found["peak_tflops"][each["precision"]])
        loading = max(0.0, 1 - each["prepared_step_ms"] / each["step_ms"])
        assert each["loading_share"] == pytest.approx(loading)


def test_gpu__operations_of_a_pass_are_counted_as_by_hand(module_at: Callable[[Path], ModuleType]) -> None:
    measures = _measures(module_at)
    run = measures.Bench(
        "cpu",
        measures.SMALL,
        measures.encoding_of(measures.SMALL),
        *(measures.draw_flows(measures.SMALL, seed) for seed in (1, 2)),
    ).run()
    # a layer, one way, of 6 units on i inputs: 4 gates of 6 * (i + 6) products; temporal 6 then 12, spatial 24 then 12
    by_packet = 2 * 2 * 24 * ((6 + 6) + (12 + 6)) + 2 * 24 * ((24 + 6) + (12 + 6))
    assert measures._flops(run._model, 10, 3) == 2 * (10 * by_packet + 3 * 12 * 34)


def test_gpu__full_flows_have_lengths_and_repeats_of_real_ones(module_at: Callable[[Path], ModuleType]) -> None:
    measures = _measures(module_at)
    rows = measures.draw_flows(measures.FULL, 1)
    described = measures._describe(rows)
    assert 4_000 < described["rows"] <= 4_096
    assert 13 < described["packets_per_row"] < 16  # aalto and lsif: 14.4
    assert 13 < described["flows"] / described["rows"] < 17  # 15.2
    assert len(measures.rows_of_flows(rows)) == described["flows"]


def _measures(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    module_at(_PROGRAM.with_name("plain.py"))
    return module_at(_PROGRAM.with_name("gpu_measures.py"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is needed")
def test_gpu__without_a_gpu_says_what_to_do_and_ends_with_2() -> None:
    done = subprocess.run([sys.executable, str(_PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 2
    assert not done.stdout
    assert re.fullmatch(
        r"Error: --device: is cuda, .*; use a machine with a GPU .*--device cpu --small.*\n", done.stderr
    )


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_gpu__a_folder_without_wheels_or_a_damaged_one_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "a-1-py3-none-any.whl").write_bytes(content)
    done = subprocess.run([sys.executable, str(_PROGRAM), "--wheels", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r"Error: --wheels: .*" + ("cannot be unpacked .*; copy it again" if content else "make wheel writes .*") + "\n",
        done.stderr,
    )


def test_gpu__imports_from_wheels_what_is_not_installed(
    tmp_path: Path, module_at: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_in_a_wheel.py", "value = 7")
        wheel.writestr("torch.py", "raise AssertionError('the installed one is first')")
    module_at(_PROGRAM).use_wheels(tmp_path, tmp_path / "unpacked")
    assert importlib.import_module("only_in_a_wheel").value == 7
    monkeypatch.delitem(sys.modules, "only_in_a_wheel")
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert "unpacked" not in str(spec.origin)
