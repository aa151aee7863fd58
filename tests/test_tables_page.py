"""docs/tables.md is what iotid/schemas/tables.py says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from iotid.schemas import Table, tables


def test_tables_page__is_current(module_at: Callable[[Path], ModuleType]) -> None:
    generator = module_at(Path(__file__).parent / "tables_page.py")
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run make tables"


def test_tables_page__says_of_every_table_where_it_is(module_at: Callable[[Path], ModuleType]) -> None:
    generator = module_at(Path(__file__).parent / "tables_page.py")
    names = {name for name, each in vars(tables).items() if isinstance(each, Table)}
    assert names == {*generator.STORED, *generator.NOT_STORED}
