"""The parts of a dataset as Petastorm datasets: the only user of Petastorm.

A part is native Parquet list columns, one for each characteristic, with ``label_id`` and ``num_flows``: NumPy blocks
come out of it without a codec. Petastorm 0.13.1 can lose a whole epoch without a word, and it takes a folder with a
missing file for a smaller dataset; whoever reads here is told instead.

The schema lies pickled in ``_common_metadata``: open no dataset that comes from somebody you do not trust.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import filesystem as legacy
from pyarrow import fs

from iotid.dataset.characteristics import Encoding
from iotid.dataset.partition import PARTS
from iotid.dataset.sets import Sets
from iotid.errors import AccountingError, PartitionError
from iotid.storage import MARKER, METADATA, Staged, open_filesystem, rows_promised

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ENCODING = "encoding.json"
SETS = "sets.parquet"
LABEL = "label_id"
WEIGHT = "num_flows"

_ROWS_PER_GROUP = 250_000  # what a reader holds at once: 64 MB for two characteristics of 32 packets


@dataclass(frozen=True)
class Rows:
    """One part in memory: ``sequences`` characteristic -> int32 (n, M) ids, ``label`` and ``num_flows`` int64 (n,)."""

    sequences: dict[str, NDArray[np.int32]]
    label: NDArray[np.int64]
    num_flows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)


def read_encoding(partition_uri: str) -> Encoding:
    """The vocabularies and labels of the dataset at ``partition_uri``.

    Raises:
        PartitionError: the dataset is not whole.
        SchemaError: it was written by another version of iotid.
    """
    return Encoding.from_json(_read_json(_open_dataset(partition_uri), ENCODING))


def read_sets(partition_uri: str) -> Sets:
    """Which flows were seen together, of some captures of each label of the dataset at ``partition_uri``.

    Raises:
        PartitionError: the dataset is not whole, or older than its sets.
    """
    files = _open_dataset(partition_uri)
    if files.get_file_info(SETS).type != fs.FileType.File:
        raise PartitionError(f"{partition_uri}: has no {SETS}, an earlier iotid wrote it; write the dataset again")
    return Sets.from_arrow(pq.read_table(SETS, filesystem=files))


def write_sets(staged: Staged, sets: Sets) -> None:
    pq.write_table(sets.to_arrow(), f"{staged.path}/{SETS}", filesystem=staged.filesystem)


def read_part(partition_uri: str, part: str) -> Rows:
    """All rows of ``part`` (train, validation or test) of the dataset at ``partition_uri``, always in the same order.

    Raises:
        PartitionError: the dataset is not whole.
        AccountingError: the files hold, or Petastorm delivered, another number of rows than was written.
    """
    from petastorm import make_batch_reader

    files = _open_dataset(partition_uri)
    encoding = Encoding.from_json(_read_json(files, ENCODING))
    written = int(_read_json(files, METADATA)["rows"][part])
    promised = rows_promised(files, part)
    if promised != written:
        raise AccountingError(
            f"{partition_uri}/{part}: {written:,} rows were written, the files' footers promise {promised:,}; "
            "files are missing or foreign; write the dataset again"
        )
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*encoding.vocabularies, LABEL, WEIGHT)}
    # the dummy pool reads in this thread: of Petastorm's pools the one that was never seen to lose rows
    options = {"reader_pool_type": "dummy", "shuffle_row_groups": False, "filesystem": _PetastormFiles(files)}
    with _quiet(), make_batch_reader(f"file:///{part}", **options) as reader:
        for block in reader:
            for name, blocks in columns.items():
                blocks.append(getattr(block, name))
    delivered = sum(len(block) for block in columns[LABEL])
    if delivered != promised:
        raise AccountingError(
            f"{partition_uri}/{part}: Petastorm delivered {delivered:,} of the {promised:,} rows that the footers "
            "promise; read it again, and report this if it comes back"
        )
    return Rows(
        {name: np.concatenate(columns[name]).astype(np.int32, copy=False) for name in encoding.vocabularies},
        np.concatenate(columns[LABEL]).astype(np.int64),
        np.concatenate(columns[WEIGHT]).astype(np.int64),
    )


@contextmanager
def materialised(spark: SparkSession, staged: Staged, encoding: Encoding) -> Iterator[None]:
    """Whoever writes the Parquet files of all parts inside this leaves Petastorm datasets."""
    from petastorm.etl.dataset_metadata import materialize_dataset
    from petastorm.unischema import Unischema, UnischemaField

    fields = [UnischemaField(name, np.int32, (encoding.max_packets,), None, False) for name in encoding.vocabularies]
    fields += [UnischemaField(name, np.int32, (), None, False) for name in (LABEL, WEIGHT)]
    files = _PetastormFiles(fs.SubTreeFileSystem(staged.path, staged.filesystem))
    with _quiet(), ExitStack() as stack:
        for part in PARTS:
            staged.filesystem.create_dir(f"{staged.path}/{part}")
            schema = Unischema("rows", fields)
            made = materialize_dataset(spark, f"file:///{part}", schema, filesystem_factory=lambda: files)
            stack.enter_context(made)
        yield


def group_rows(rows: Mapping[str, int], of_partitions: Sequence[Mapping[str, int]], least: int) -> list[dict[str, int]]:
    """By partition and part, how many rows a row group has: ``least`` groups a part where there are as many rows.

    ``rows``: of each part; ``of_partitions``: of those, in each partition, whose groups are all of about one size.
    """

    def of_group(part: str, own: int) -> int:
        largest = min(max(rows[part] // least, 1), _ROWS_PER_GROUP)
        return -(-own // max(-(-own // largest), 1))

    return [{part: of_group(part, own) for part, own in some.items() if own} for some in of_partitions]


def _open_dataset(partition_uri: str) -> fs.FileSystem:
    """The filesystem that has the dataset's folder as its root."""
    filesystem, path = open_filesystem(partition_uri)
    files = fs.SubTreeFileSystem(path, filesystem)
    if files.get_file_info(MARKER).type != fs.FileType.File:
        raise PartitionError(f"datasets: no whole dataset at {partition_uri}; run iotid write-dataset first")
    return files


def _read_json(files: fs.FileSystem, name: str) -> Mapping[str, Any]:
    with files.open_input_file(name) as file:
        content: Mapping[str, Any] = json.loads(file.read())
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Petastorm warns at every step of what this module does on purpose or cannot help, and prints when it is done."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


class _PetastormFiles(legacy.FileSystem):
    """A dataset's folder as the kind of filesystem that Petastorm's legacy reader asks for.

    Petastorm's own choice of filesystem knows no local path with ``#``, ``?`` or ``;`` and, with pyarrow 14, no object
    store at all. This one reaches whatever the partition's own filesystem reaches. Paths start at ``/``, the folder.
    """

    def __init__(self, files: fs.FileSystem) -> None:
        self._files = files

    def open(self, path: str, mode: str = "rb") -> IO[bytes]:
        return self._files.open_output_stream(path) if mode == "wb" else self._files.open_input_file(path)

    def exists(self, path: str) -> bool:
        return self._type(path) != fs.FileType.NotFound

    def isdir(self, path: str) -> bool:
        return self._type(path) == fs.FileType.Directory

    def isfile(self, path: str) -> bool:
        return self._type(path) == fs.FileType.File

    def walk(self, path: str) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
        """The folder alone, which is all that a part has: (path, folders in it, files in it)."""
        found = self._files.get_file_info(fs.FileSelector(path.lstrip("/")))
        folders = [info.base_name for info in found if info.type == fs.FileType.Directory]
        yield path, folders, [info.base_name for info in found if info.is_file]

    def _type(self, path: str) -> fs.FileType:
        return self._files.get_file_info(path.lstrip("/")).type
