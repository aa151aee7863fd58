"""Imports follow the pipeline: a package imports only packages before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent

ORDER = [
    "messages", "errors", "inputs", "yaml12", "pages", "config", "private", "schemas", "arrow", "storage", "partitions",
    "spark", "capture", "flows", "labels", "dataset", "model", "baselines", "tracking", "evaluation", "training",
    "promotion", "census", "retention", "simulate", "studies", "cli", "jobs",
]  # fmt: skip

HOMES = {
    "petastorm": {"iotid/dataset/petastorm_compat.py"},
    "mlflow": {"iotid/tracking/bundles.py", "iotid/tracking/client.py", "iotid/tracking/serving.py"},
    "scapy": {"iotid/simulate/captures.py", "iotid/simulate/frames.py"},
}


def _modules() -> list[Path]:
    return sorted([*ROOT.glob("iotid/**/*.py"), *ROOT.glob("jobs/*.py")])


def _package(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "jobs":
        return "jobs"
    return parts[1] if parts[0] == "iotid" and len(parts) > 1 else None


def _imported(path: Path) -> set[str]:
    """Dotted names of every module that the file imports, anywhere in it, type-checking imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module in ("iotid", "jobs"))
    return names


def _rank(package: str) -> int:
    return ORDER.index(package)


def test_imports__every_package_is_in_the_order() -> None:
    packages = {_package(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in _modules()}
    assert {package for package in packages if package not in (None, "__init__")} <= set(ORDER)


def test_imports__no_package_imports_a_later_one() -> None:
    backward = []
    for path in _modules():
        own = _package(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own in (None, "__init__"):
            continue
        for name in _imported(path):
            other = _package(name)
            if other in ORDER and other != own and _rank(other) > _rank(own):
                backward.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not backward


def test_imports__there_are_no_cycles() -> None:
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in _modules()}
    modules = {name: path for name, path in dotted.items() if path.name != "__init__.py"}
    graph = {}
    for name, path in modules.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        graph[name] = ((named | {node.module for node in nodes}) & modules.keys()) - {name}
    list(TopologicalSorter(graph).static_order())  # raises a CycleError that lists the circle


def test_imports__only_the_command_line_imports_studies() -> None:
    importing = [path for path in _modules() if any(name.startswith("iotid.studies") for name in _imported(path))]
    assert {path.relative_to(ROOT).parts[1] for path in importing} <= {"studies", "cli"}


def test_imports__each_heavy_library_is_imported_in_one_place() -> None:
    strays = []
    for library, homes in HOMES.items():
        for path in _modules():
            relative = str(path.relative_to(ROOT))
            if relative not in homes and any(name.split(".")[0] == library for name in _imported(path)):
                strays.append(f"{relative} imports {library}")
    assert not strays


def test_imports__airflow_dags_import_nothing_of_iotid() -> None:
    for path in ROOT.glob("airflow_dags/*.py"):
        assert not any(name.split(".")[0] in ("iotid", "jobs") for name in _imported(path)), path


def test_imports__iotid_alone_loads_no_heavy_library() -> None:
    heavy = ["pyspark", "torch", "mlflow", "petastorm", "numba", "pyarrow", "pandas", "sklearn", "scapy", "matplotlib"]
    code = f"import sys, iotid, iotid.cli, iotid.config, iotid.schemas; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
