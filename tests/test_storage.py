"""Files on any filesystem: a worker's output file is complete or absent; paths as text."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem

from iotid.storage import OutputFile, local_path, remove_failed_task_files, remove_folder, rows_in_footers, text_of


def test_output_file__gets_its_name_when_complete(tmp_path: Path) -> None:
    schema = pa.schema([("number", pa.int32())])
    table = pa.table({"number": pa.array([1, 2, 3], pa.int32())})
    OutputFile(str(tmp_path), "part-0.parquet", 7, schema, 2).close(whole=True)
    assert list(tmp_path.iterdir()) == [], "no row, no file"
    file = OutputFile(str(tmp_path), "part-0.parquet", 7, schema, 2)
    file.write(table)
    file.close(whole=False)
    assert [path.name for path in tmp_path.iterdir()] == ["_attempt-7-part-0.parquet"]
    for attempt in (8, 9):  # the second takes the place of the first
        file = OutputFile(str(tmp_path), "part-0.parquet", attempt, schema, 2)
        file.write(table)
        file.write(table)
        file.close(whole=True)
    assert [pq.read_metadata(tmp_path / "part-0.parquet").row_group(i).num_rows for i in range(3)] == [2, 2, 2]
    (tmp_path / "_attempt-11-part-1.parquet").write_bytes(b"what a worker died over")
    remove_failed_task_files(LocalFileSystem(), str(tmp_path))
    assert rows_in_footers(LocalFileSystem(), str(tmp_path)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["part-0.parquet"]
    assert pq.read_table(tmp_path / "part-0.parquet", partitioning=None)["number"].to_pylist() == [1, 2, 3, 1, 2, 3]


def test_text_of__round_trips_a_path(tmp_path: Path) -> None:
    for name in ("plain", "a%20b", "\udcff", "%41\udc80?#é ☃"):
        path = f"{tmp_path}/{name}"
        assert local_path(text_of(path)) == path
        text_of(path).encode()
    assert text_of("a%20b") == "a%20b"
    assert local_path("s3://bucket/a") is None


def test_remove_folder__is_done_though_another_run_writes_into_it_meanwhile(tmp_path: Path) -> None:
    class Busy:
        """A filesystem in which another run writes and deletes while a folder is removed."""

        def __init__(self, *faults: int) -> None:
            self.faults = list(faults)

        def get_file_info(self, path: str) -> Any:
            return LocalFileSystem().get_file_info(path)

        def delete_dir(self, path: str) -> None:
            if self.faults:
                raise OSError(self.faults.pop(), "as asked", path)
            LocalFileSystem().delete_dir(path)

    folder = tmp_path / "x"
    (folder / "y").mkdir(parents=True)
    remove_folder(Busy(errno.ENOTEMPTY, errno.ENOENT), str(folder))  # type: ignore[arg-type]
    assert not folder.exists()
    folder.mkdir()
    for faults in ([errno.EACCES], [errno.ENOTEMPTY] * 100):
        with pytest.raises(OSError, match="as asked"):
            remove_folder(Busy(*faults), str(folder))  # type: ignore[arg-type]
