"""Petastorm as its authors run it, in .venv-petastorm: `read FOLDER` prints a part's rows as each of its readers gives
them, `write FOLDER TO` writes the Parquet files of a folder again with Spark, by ``materialize_dataset``."""

import json
import sys
import warnings

import numpy as np
import pyarrow.parquet as pq

READERS = ("make_reader", "make_batch_reader", "torch DataLoader", "torch BatchedDataLoader")


def rows_of(reader: str, url: str) -> list[dict[str, list[int]]]:
    from petastorm import make_batch_reader, make_reader
    from petastorm.pytorch import BatchedDataLoader, DataLoader

    options = {"reader_pool_type": "dummy", "shuffle_row_groups": False}
    if reader == "make_reader":
        with make_reader(url, **options) as rows:
            return [{name: np.atleast_1d(value).tolist() for name, value in row._asdict().items()} for row in rows]
    with make_batch_reader(url, **options) as blocks:
        if reader == "torch DataLoader":
            batches = list(DataLoader(blocks, batch_size=7))
        elif reader == "torch BatchedDataLoader":
            batches = list(BatchedDataLoader(blocks, batch_size=7))
        else:
            batches = [block._asdict() for block in blocks]
        rows = []
        for batch in batches:
            columns = {name: np.asarray(column) for name, column in batch.items()}
            for number in range(len(next(iter(columns.values())))):
                rows.append({name: np.atleast_1d(column[number]).tolist() for name, column in columns.items()})
        return rows


def write(source: str, to: str) -> None:
    from petastorm.etl.dataset_metadata import materialize_dataset
    from petastorm.unischema import Unischema, UnischemaField
    from pyspark.sql import SparkSession

    first = pq.read_table(source).slice(0, 1).to_pylist()[0]
    shapes = {name: (len(value),) if isinstance(value, list) else () for name, value in first.items()}
    fields = [UnischemaField(name, np.int32, shape, None, False) for name, shape in shapes.items()]
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    with materialize_dataset(spark, f"file://{to}", Unischema("rows", fields)):
        spark.read.parquet(source).repartition(2).write.parquet(to)
    spark.stop()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        print(json.dumps({reader: rows_of(reader, f"file://{sys.argv[2]}") for reader in READERS}))
