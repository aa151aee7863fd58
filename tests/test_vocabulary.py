"""Identifiers use none of the former words of docs/glossary.md, and test names are readable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Words of names, by where they may not be. The right column of docs/glossary.md says what to write.
EVERYWHERE = {
    "alike", "aside", "asides", "bears", "dealt", "deal", "doubt", "doubts", "heal", "healed", "leads", "likeness",
    "look", "looks", "mend", "mended", "night", "nights", "parcel", "parcels", "rival", "rivals", "seek", "settle",
    "settled", "spoke", "stretch", "stretches", "surprise", "tell", "tells", "thing", "things", "told", "twin", "twins",
    "whoever",
}  # fmt: skip
IN_PACKAGES = {
    "capture": {"heads", "repeats", "closer", "put", "above"},
    "flows": {"heads", "put"},
    "dataset": {"few", "places", "bag", "bags"},
    "model": {"memory", "bag", "bags", "places"},
    "tracking": {"turn", "reach"},
    "training": {"turn"},
    "promotion": {"floor", "lead"},
    "studies": {"floor", "lead"},
}
PHRASES = ("made_by", "told_by", "taken_off", "of_no_matter", "further_baselines", "at_once", "numbered", "in_turn")
# fields of stored metadata, which earlier partitions have by these names, and settings
STORED = {"files_alike", "made_by", "night_before", "nights", "unfit_nights", "kinds_at_once", "KINDS_AT_ONCE"}
LONGEST_TEST_NAME = 80


def _modules() -> list[Path]:
    return sorted(path for folder in ("iotid", "jobs", "airflow_dags") for path in ROOT.glob(f"{folder}/**/*.py"))


def _defined(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module names: modules, functions, classes, arguments, variables, attributes."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_names__use_no_former_words_of_the_glossary(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    banned = EVERYWHERE | IN_PACKAGES.get(parts[1], set())
    found = []
    for line, name in _defined(path):
        snake = "_".join(_words(name))
        if name not in STORED and (banned & set(_words(name)) or any(f"_{p}_" in f"_{snake}_" for p in PHRASES)):
            found.append(f"{line}: {name}")
    assert not sorted(set(found)), f"{path.relative_to(ROOT)}: see docs/glossary.md"


def test_names__of_tests_are_readable() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sorted(ROOT.glob("tests/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > LONGEST_TEST_NAME
    ]
    assert not long
