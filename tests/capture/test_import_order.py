"""Inside iotid.capture imports follow the data: no module imports a later one, not even for its types."""

from __future__ import annotations

import ast
from pathlib import Path

import iotid.capture

# what all may import, then the steps in their order
_STEPS = ({"fields", "jit", "counters", "packets", "file_split", "threads", "by_date"}, {"containers"}, {"decode"},
          {"splits"}, {"reader", "dates"}, {"source"})  # fmt: skip


def _step(module: str) -> int:
    name = module.removeprefix("iotid.capture.").partition(".")[0]
    return next(number for number, names in enumerate(_STEPS) if name in names)


def test_modules__import_only_their_own_step_and_those_before() -> None:
    root = Path(iotid.capture.__file__).parent
    wrong = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(["iotid.capture", *path.relative_to(root).with_suffix("").parts])
        if path == root / "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iotid.capture."):
                assert node.module is not None
                wrong += [f"{module} imports {node.module}"] * (_step(node.module) > _step(module))
    assert not wrong
