"""No column of a stored table is a word that DuckDB or Spark reserves, so queries need no quotes."""

from __future__ import annotations

import duckdb

from iotid import schemas
from iotid.schemas import Table

# SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved', DuckDB 2.0.1
DUCKDB = """
all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default
deferrable desc describe distinct do else end except false fetch for foreign from group having in initially
intersect into lambda lateral leading limit not null offset on only or order pivot pivot_longer pivot_wider placing
primary qualify references returning select show some summarize symmetric table then to trailing true union unique
unpivot using variadic when where window with
"""
# SELECT keyword FROM sql_keywords() WHERE reserved, Spark 4.3.0 with spark.sql.ansi.enforceReservedKeywords=true
SPARK = """
all and any as authorization both call case cast check collate collation collations column constraint create cross
current_date current_path current_schema current_time current_timestamp current_user distinct else end escape except
execute false fetch filter for foreign from full grant group having in inner intersect into is join lateral leading
left localtime natural not null offset on only or order outer overlaps primary recursive references right select
session_user some sql table then time to trailing union unique unknown user using when where with within
"""
RESERVED = {*DUCKDB.split(), *SPARK.split()}
IN_NO_FILE = {"packets", "partial_flows", "predictions"}
# the count of unknown devices: Spark reserves the word only with spark.sql.ansi.enforceReservedKeywords=true
KEPT = {("network_sites", "unknown")}


def test_columns__are_no_reserved_words() -> None:
    tables = [each for each in vars(schemas).values() if isinstance(each, Table) and each.name not in IN_NO_FILE]
    found = {
        (table.name, column.name) for table in tables for column in table.columns if column.name.lower() in RESERVED
    }
    assert found == KEPT


def test_words__are_those_of_the_installed_duckdb() -> None:
    query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    assert {word for (word,) in duckdb.sql(query).fetchall()} == {*DUCKDB.split()}
