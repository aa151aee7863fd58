"""Partitions are complete or absent, replaced as a whole, and recovered after a death at any point."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from iotid import partitions
from iotid.errors import AbsentError, UserError
from iotid.partitions import PartitionKey, Store

KEYS = PartitionKey.of_date("a", "2026-01-10")


def _write(store: Store, text: str, key: PartitionKey = KEYS) -> None:
    with store.write("flows", key) as staged:
        Path(staged.path, "part.txt").write_text(text)
        staged.metadata["rows"] = len(text)


def _read(store: Store) -> str:
    return Path(store.open("flows", KEYS).uri, "part.txt").read_text()


def test_store__a_written_partition_opens_with_its_metadata(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    _write(store, "abc")
    partition = store.open("flows", KEYS)
    assert partition.metadata["rows"] == 3
    assert partition.metadata["schema_version"] == 1
    assert partition.metadata["keys"] == KEYS
    assert partition.uri == f"{tmp_path}/flows/site=a/capture_date=2026-01-10"
    assert store.partitions("flows") == [KEYS]


def test_store__order_of_keys_does_not_matter(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    _write(store, "abc")
    assert store.open("flows", PartitionKey(sorted(KEYS.items()))).uri == store.open("flows", KEYS).uri


def test_store__absent_or_incomplete_partition_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(AbsentError, match="run iotid assemble-flows first"):
        store.open("flows", KEYS)
    _write(store, "abc")
    Path(store.open("flows", KEYS).uri, partitions.MARKER).unlink()
    assert not store.exists("flows", KEYS)
    assert store.partitions("flows") == []


@pytest.mark.parametrize(
    ("site", "date", "answer"),
    [
        ("hme", "2026-01-10", "it has data for site home, office"),
        ("office", "2026-01-31", "site office has data for 2026-01-02"),
        (
            "home",
            "2026-01-15",
            "site home has data for 2026-01-12, 2026-01-13, 2026-01-14, 2026-01-16, 2026-01-17 and 6 more",
        ),
    ],
)
def test_store__absent_partition_lists_the_nearest_that_exist(
    site: str, date: str, answer: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    for day in {*range(9, 21)} - {15}:
        _write(store, "abc", PartitionKey.of_date("home", f"2026-01-{day:02}"))
    _write(store, "abc", PartitionKey.of_date("office", "2026-01-02"))
    with pytest.raises(AbsentError) as caught:
        store.open("flows", PartitionKey.of_date(site, date))
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"flows: no completed data for site {site}, {date} in {tmp_path}; {answer}; run iotid assemble-flows first"
    )


def test_store__absent_dataset_of_an_empty_store_says_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match=r"^datasets: no completed data for home in .*; it has none yet; run iotid"):
        Store(str(tmp_path)).open("datasets", PartitionKey.named("home"))


def test_store__a_failed_write_changes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    _write(store, "old")
    with pytest.raises(RuntimeError), store.write("flows", KEYS) as staged:  # noqa: PT012 - the write is the subject
        Path(staged.path, "part.txt").write_text("new")
        raise RuntimeError
    assert _read(store) == "old"
    assert list(Path(tmp_path, "_staging/flows/site=a/capture_date=2026-01-10").iterdir()) == []


def test_store__metadata_that_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(AssertionError, match="metadata of flows: rows: must be a whole number"):  # noqa: SIM117
        with store.write("flows", KEYS) as staged:
            staged.metadata["rows"] = "5"
    assert not store.exists("flows", KEYS)


def test_store__second_write_replaces_the_partition(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.write("flows", KEYS) as staged:
        Path(staged.path, "other.txt").write_text("left over")
    _write(store, "new")
    assert sorted(path.name for path in Path(store.open("flows", KEYS).uri).iterdir()) == [
        partitions.METADATA,
        partitions.MARKER,
        "part.txt",
    ]


@pytest.mark.parametrize("moves_done", [0, 1])
def test_store__death_between_renames_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves_done: int
) -> None:
    store = Store(str(tmp_path))
    _write(store, "old")
    real_move, moves = os.rename, []

    class DiedError(Exception):
        """Stands for the death of the process."""

    class Fs:
        """The store's filesystem, which fails after so many moves, like a killed process."""

        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def move(self, source: str, target: str) -> None:
            if len(moves) == moves_done:
                raise DiedError
            moves.append(source)
            real_move(source, target)

    monkeypatch.setattr(store._layout, "_fs", Fs(store._fs))
    with pytest.raises(DiedError):
        _write(store, "new")
    monkeypatch.undo()
    healed = Store(str(tmp_path))
    assert healed.exists("flows", KEYS)
    assert _read(healed) in ({"old", "new"} if moves_done == 0 else {"new"})


def test_store__killed_at_any_moment_shows_one_complete_version(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; from pathlib import Path; from iotid.partitions import PartitionKey, Store\n"
        "store = Store(sys.argv[1])\n"
        "for n in itertools.count():\n"
        "    with store.write('flows', PartitionKey.of_date('a', '2026-01-10')) as staged:\n"
        "        for part in range(3): Path(staged.path, f'{part}.txt').write_text(str(n))\n"
        "    print(n, flush=True)\n"
    )
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        folder = Path(Store(str(tmp_path)).open("flows", KEYS).uri)
        versions = {(folder / f"{part}.txt").read_text() for part in range(3)}
        assert len(versions) == 1


def test_store__special_characters_in_a_key_make_one_folder_and_round_trip(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keys = PartitionKey.of_date("a/b =c", "2026-01-10")
    with store.write("flows", keys):
        pass
    assert store.partitions("flows") == [keys]


def test_store__a_root_that_cannot_be_opened_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"storage\.root: nosuch://x"):
        Store("nosuch://x")


@pytest.mark.parametrize("root", ["file", "file/below", "/proc/iotid", "loop", "long" * 100])
def test_store__root_below_a_file_is_a_one_line_error(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    store = Store(str(tmp_path / root))
    with pytest.raises(UserError, match=r"^storage\.root: \S+ cannot be used \(.*\); name a folder"):
        _write(store, "abc")
    with pytest.raises(UserError, match=r"^storage\.root: .*cannot be used"):
        store.working_folder("training")
    if "/" in root or root == "file":
        assert not store.exists("flows", KEYS)
        assert store.partitions("flows") == []
        with pytest.raises(UserError if root == "file" else AbsentError, match=r"it is a file|run iotid assemble"):
            store.open("flows", KEYS)
        return
    for look in (lambda: store.exists("flows", KEYS), lambda: store.open("flows", KEYS)):
        with pytest.raises(UserError, match=r"^storage\.root: .*cannot be used"):
            look()


def test_store__read_only_folder_is_a_one_line_error(tmp_path: Path) -> None:
    for folder in [tmp_path, *tmp_path.parents[:2]]:
        folder.chmod(0o755)
    tmp_path.chmod(0o555)
    code = (
        "import os, sys, pyarrow.fs; from iotid.partitions import PartitionKey, Store\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"  # root may write anywhere
        "for use in (lambda s: s.write('flows', PartitionKey(site='a')).__enter__(), lambda s: s.working_folder()):\n"
        "    for root in sys.argv[1:]:\n"
        "        try: use(Store(root))\n"
        "        except Exception as fault: print(type(fault).__name__, fault)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), f"{tmp_path}/new"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    tmp_path.chmod(0o755)
    assert len(lines) == 4, lines
    assert all(line.startswith("UserError storage.root: ") and "ermission denied" in line for line in lines), lines


def test_store__full_disk_is_not_reported_as_an_invalid_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        Store(str(tmp_path)).working_folder("training")


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a #b", "a*[1]{x,y}", "file:", "a;b&c=d"])
def test_store__root_with_reserved_characters_is_the_folder_of_that_name(name: str, tmp_path: Path) -> None:
    store = Store(f"{tmp_path}/{name}")
    _write(store, "abc")
    assert _read(store) == "abc"
    assert store.partitions("flows") == [KEYS]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_store__of_a_file_uri_is_that_of_its_path(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b/", f"file:{tmp_path}/a%20b"):
        assert Store(uri).root == f"{tmp_path}/a b"
    _write(Store(f"file://{tmp_path}/a%20b"), "abc")
    assert _read(Store(f"{tmp_path}/a b")) == "abc"
    with pytest.raises(UserError, match="is not a path or URI that can be opened"):
        Store("file://elsewhere/a")


def test_store__root_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    for name in ("a\udcffb", "a\0b"):
        with pytest.raises(UserError, match="must be UTF-8"):
            Store(f"{tmp_path}/{name}")


def test_store__says_when_each_partition_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    began = time.time()
    for site in ("b", "a"):
        with store.write("census", PartitionKey.of_date(site, "2026-01-10")):
            pass
    written = store.written("census")
    assert [key.site for key, _ in written] == ["a", "b"]
    assert all(began - 1 <= written_us / 1e6 <= time.time() + 1 for _, written_us in written)


def test_store__links_lead_from_the_files_of_one_partition_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    site, network = PartitionKey.of_date("a b%", "2026-01-10"), PartitionKey.of_network("all", "2026-01-10")
    with store.write("census", site) as staged:
        staged.write_text("page.html", "")
    link = store.link(("network", network), ("census", site), "page.html")
    assert link == "../../../census/site=a%2520b%2525/capture_date=2026-01-10/page.html"
    assert (tmp_path / "network" / network.folder / unquote(link)).resolve().is_file()
    monkeypatch.setattr("iotid.partitions.is_object_store", lambda _: True)
    assert Store(str(tmp_path)).link(("network", network), ("census", site), "page.html") is None
