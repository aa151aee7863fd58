"""Many sites of a date in one application: each whole or absent by itself, and only what has changed is repeated."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from iotid.cli import sites, steps
from iotid.cli.ingest_sites import main as ingest_sites
from iotid.cli.sites import Outcome, Shared, captures_of_sites, process_sites, size_of
from iotid.config import Settings
from iotid.errors import AbsentError, InputError, SitesError
from iotid.partitions import PartitionKey, Store
from iotid.spark.in_process import InProcess
from iotid.tracking import ModelVersion

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATE = "2026-01-11"
TABLES = ("splits", "flows", "census")


def write_capture(path: Path, devices: int, start: int = 1_768_089_600) -> None:
    """Each device asks a server three times and is answered; times are on DATE."""
    from scapy.layers.inet import IP, TCP, Ether
    from scapy.packet import Raw
    from scapy.utils import wrpcap

    packets = []
    for device in range(devices):
        mac, ip = f"02:00:00:00:00:{device + 1:02x}", f"192.168.1.{device + 10}"
        for turn in range(3):
            ports = {"sport": 40_000 + turn, "dport": 443}
            asked = Ether(src=mac, dst="02:00:00:00:01:00") / IP(src=ip, dst="52.1.1.1")
            answered = Ether(src="02:00:00:00:01:00", dst=mac) / IP(src="52.1.1.1", dst=ip)
            back = {"sport": 443, "dport": 40_000 + turn}
            both = [asked / TCP(flags="S", **ports) / Raw(b"x" * (device + turn)), answered / TCP(flags="SA", **back)]
            for number, packet in enumerate(both):
                packet.time = start + 60 * turn + number
                packets.append(packet)
    path.parent.mkdir(parents=True, exist_ok=True)
    wrpcap(str(path), packets)


def sizes_of(captures: dict[str, str]) -> dict[str, int]:
    return {site: size_of(folder) for site, folder in captures.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Captures of two sites, and of one whose folder has none."""
    for site, devices in (("north", 2), ("south", 3)):
        write_capture(tmp_path / "captures" / site / DATE / "a.pcap", devices)
    (tmp_path / "captures" / "broken" / DATE).mkdir(parents=True)
    return tmp_path / "captures"


@pytest.fixture
def run(settings: Settings, root: Path) -> Callable[..., dict[str, Outcome]]:
    def process(session: Any = None, **shared: Any) -> dict[str, Outcome]:
        own = Shared(DATE, **{"settings": settings, **shared})
        captures = captures_of_sites(str(root), DATE, ())
        outcomes = process_sites(session or InProcess(), own, captures, sizes_of(captures))
        return {outcome.site: outcome for outcome in outcomes}

    return process


def written(settings: Settings) -> dict[tuple[str, str], int]:
    """(table, site) -> when its partition was written."""
    store = Store(settings.storage.root)
    return {(table, key.site): when for table in TABLES for key, when in store.written(table)}


def rows(settings: Settings, site: str) -> list[dict[str, Any]]:
    census = Store(settings.storage.root).open("census", PartitionKey.of_date(site, DATE))
    return pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None).to_pylist()


def test_process_sites__one_that_fails_stops_no_other(settings: Settings, run: Callable[..., Any]) -> None:
    outcomes = run()
    assert {site: (each.error[-20:], each.exit_code) for site, each in outcomes.items()} == {
        "north": ("", 0), "south": ("", 0), "broken": ("n gzip, zstd, bz2 or xz)"[-20:], 2),
    }  # fmt: skip
    assert {site for _, site in written(settings)} == {"north", "south"}
    assert len(written(settings)) == 6
    assert [len(rows(settings, site)) for site in ("north", "south")] == [2, 3]


def test_process_sites__repeats_only_what_has_changed(settings: Settings, root: Path, run: Callable[..., Any]) -> None:
    run()
    first = written(settings)
    run()
    assert written(settings) == first
    write_capture(root / "south" / DATE / "late.pcap", 5, 1_768_093_200)
    run()
    second = written(settings)
    assert {name for name in first if first[name] != second[name]} == {(table, "south") for table in TABLES}
    assert len(rows(settings, "south")) == 5
    run(champion=ModelVersion(7, "run", "2026-01-31", {}))
    third = written(settings)
    assert {name for name in second if second[name] != third[name]} == {("census", "north"), ("census", "south")}
    longer = settings.model_copy(update={"flow": settings.flow.model_copy(update={"max_packets": 40})})
    run(settings=longer, champion=ModelVersion(7, "run", "2026-01-31", {}))
    fourth = written(settings)
    assert {table for table, _ in third if third[table, "north"] != fourth[table, "north"]} == {"flows", "census"}
    run(again=True)
    assert not {name for name, when in written(settings).items() if when == fourth[name]}


def test_process_sites__another_version_of_iotid_repeats_all(
    settings: Settings, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    first = written(settings)
    monkeypatch.setattr("iotid.__version__", "99", raising=False)
    run()
    assert not set(written(settings).items()) & set(first.items())


def test_process_sites__flows_that_go_on_are_assembled_again(
    settings: Settings, run: Callable[..., Any], root: Path
) -> None:
    timed = settings.model_copy(update={"flow": settings.flow.model_copy(update={"idle_timeout_s": 90_000.0})})
    before = root / "north" / "2026-01-10" / "a.pcap"
    write_capture(before, 2, 1_768_089_600 - 3600)
    for date in ("2026-01-10", DATE):
        captures = captures_of_sites(str(root), date, ["north"])
        list(process_sites(InProcess(), Shared(date, timed), captures, sizes_of(captures)))
    first = written(settings)
    run(settings=timed)
    assert first["flows", "north"] != written(settings)["flows", "north"], "of the date that continues the other"


def test_process_sites__one_that_takes_long_delays_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_ended = threading.Event()

    def run(spark: Any, shared: Shared, site: str, location: str, size_bytes: int) -> Outcome:
        assert site != "large" or others_ended.wait(60)
        return Outcome(site)

    monkeypatch.setattr(sites, "_run_from_driver", run)
    session: Any = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=2))
    sizes = {"a": 1, "large": 9, "b": 2}
    ended = process_sites(session, Shared(DATE, settings), dict.fromkeys(sizes, "/x"), sizes)
    assert {next(ended).site, next(ended).site} == {"a", "b"}
    others_ended.set()
    assert [each.site for each in ended] == ["large"]


def test_captures_of_sites__are_those_named_or_all_with_the_date(root: Path) -> None:
    assert captures_of_sites(f"{root}/", DATE, ()) == {
        site: f"{root}/{site}/{DATE}" for site in ("broken", "north", "south")
    }
    assert list(captures_of_sites(str(root), DATE, ["west", "north"])) == ["west", "north"]
    with pytest.raises(InputError, match=r"--captures .*: holds no folder SITE/2026-01-12; give the folder above"):
        captures_of_sites(str(root), "2026-01-12", ())


def test_sites_error__has_the_code_of_those_that_a_retry_helps() -> None:
    errors = {"b": "gone", "a": "full"}
    assert str(SitesError.of(errors, {2})) == "ingest-sites: 2 sites failed: a: full; b: gone"
    assert [SitesError.of(errors, codes).exit_code for codes in ({2}, {1}, {1, 2})] == [2, 1, 1]


def test_command__names_failed_sites_and_ends_with_their_code(settings: Settings, root: Path) -> None:
    asked = ["--captures", str(root), "--date", DATE, "--config", "local.yaml"]
    asked += ["--set", f"storage.root={settings.storage.root}"]
    done = CliRunner().invoke(ingest_sites, asked)
    assert done.exit_code == 2, done.output
    assert "Error: ingest-sites: 1 site failed: broken: " in done.output
    assert "  north: 2 devices: 2 unknown" in done.output
    assert "sites: 2 of 3 done" in done.output
    assert "hint: " in done.output
    done = CliRunner().invoke(ingest_sites, [*asked, "--site", "north"])
    assert (done.exit_code, "[1/1] site north: done" in done.output) == (0, True)
    watch = ["--set", "watchlist.fail=true", "--set", "watchlist.devices=[02:00:00:00:00:03]"]
    done = CliRunner().invoke(ingest_sites, [*asked, *watch, "--site", "north", "--site", "south"])
    assert done.exit_code == 3, done.output
    assert "1 sites have watched devices: south" in done.output
    assert "ingest-sites" in steps.list_commands(None)  # type: ignore[arg-type]


def test_command__pseudonyms_without_a_key_are_refused_at_once(settings: Settings, root: Path) -> None:
    asked = ["--captures", str(root), "--date", DATE, "--set", f"storage.root={settings.storage.root}"]
    done = CliRunner().invoke(ingest_sites, [*asked, "--set", "census.pseudonyms=opaque"])
    assert done.exit_code == 2
    assert not Path(settings.storage.root, "splits").exists()


@pytest.mark.spark
def test_process_sites__on_spark_gives_the_rows_of_this_process(
    spark: SparkSession, settings: Settings, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {site: rows(settings, site) for site, outcome in run().items() if not outcome.error}
    for change in ({}, {"in_process_bytes": 1}, {"in_process_flows": 1}):
        own = settings.model_copy(update={"spark": settings.spark.model_copy(update=change)})
        outcomes = run(spark, settings=own, again=True)
        assert [site for site, outcome in outcomes.items() if outcome.error] == ["broken"]
        assert {site: rows(settings, site) for site in here} == here
    few = settings.model_copy(update={"spark": settings.spark.model_copy(update={"in_process_flows": 1})})
    for site in here:
        Store(settings.storage.root).delete("census", PartitionKey.of_date(site, DATE))
    assert not run(settings=few)["north"].error, "few bytes, many flows: Spark takes the census"
    assert {site: rows(settings, site) for site in here} == here
    monkeypatch.setenv("IOTID_CENSUS_KEY", "a key of this test")
    hidden = settings.model_copy(update={"census": settings.census.model_copy(update={"pseudonyms": "opaque"})})
    assert not run(spark, settings=hidden)["north"].error, "the driver, which has the key, takes the census"
    assert not {row["device_id"] for row in rows(settings, "north")} & {row["device_id"] for row in here["north"]}


@pytest.mark.spark
def test_process_sites__a_worker_that_dies_fails_its_own_site_alone(spark: SparkSession) -> None:
    died = sites._caught("a", lambda: sites._in_one_task(spark, lambda _: os._exit(9)))
    assert (died.exit_code, died.error[:11]) == (1, "Py4JJavaErr")
    assert sites._in_one_task(spark, lambda _: Outcome("b")) == Outcome("b")


def test_run_site__an_error_of_any_kind_is_an_outcome(caplog: pytest.LogCaptureFixture) -> None:
    def fail(fault: Exception) -> Outcome:
        def work() -> Outcome:
            raise fault

        return sites._caught("a", work)

    assert fail(AbsentError("flows: none")) == Outcome("a", "flows: none", 2)
    assert fail(OSError(28, "No space left on device")).error.startswith("the disk is full")
    assert fail(ZeroDivisionError("a\nb")) == Outcome("a", "ZeroDivisionError: a; the log has more", 1)
    assert "site a: " in caplog.text
