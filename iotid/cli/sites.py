"""Takes many sites of a date from captures to a census in one Spark application.

Each site has a thread of the driver. The thread sends a small site whole to one Spark task, in whose process all steps
run (`iotid.spark.in_process`), so a site costs no start-up; for a large site it starts the jobs of the usual steps. A
site that fails stops no other, and each partition is whole or absent by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from iotid import config, spark_session
from iotid.capture.splits.write import write_splits
from iotid.census import find_champion, take_census
from iotid.census.scored import broadcast_model
from iotid.cli import command, output
from iotid.cli.checks import check_census
from iotid.cli.machine_errors import as_iotid_error
from iotid.errors import InputError, IotidError, SitesError, WatchError
from iotid.flows import write_flows
from iotid.labels import DeviceList
from iotid.messages import format_traceback, one_line
from iotid.partitions import PartitionKey, Store
from iotid.spark.in_process import InProcess
from iotid.spark.phases import set_phase
from iotid.spark.session import session_for
from iotid.spark.worker_errors import in_worker, raised_in_worker
from iotid.storage import folders_in, open_filesystem, path_exists
from iotid.tracking import Registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.census.scored import BroadcastModel
    from iotid.labels.devices import Device
    from iotid.spark.in_process import Session
    from iotid.tracking.versions import ModelVersion

_MOST_THREADS = 64
_STEP = "iotid ingest-sites"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a site ended: ``error`` is empty, or one line, with the exit code that its own step would have had."""

    site: str
    error: str = ""
    exit_code: int = 0
    is_large: bool = False  # has more flows than a task takes; its census is still to be taken


@dataclass(frozen=True)
class Shared:
    """What all sites of a capture date share. ``again``: make partitions anew that are current.

    ``champion``, ``model``: None before there is a model. ``listed``: the entries of the device list, None without one.
    """

    capture_date: str
    settings: config.Settings
    champion: ModelVersion | None = None
    model: BroadcastModel | None = None
    listed: Sequence[Device] | None = None
    again: bool = False


def ingest_sites(
    settings: config.Settings,
    captures: str,
    capture_date: str,
    sites: Sequence[str],
    labels: Sequence[str],
    *,
    again: bool,
) -> None:
    """Run `process_sites` on ROOT/SITE/DATE below ``captures``, and print a line for each site.

    Raises:
        SitesError: sites failed; all others are done.
        WatchError: none failed, ``watchlist.fail`` is set, and a watched device was found.
    """
    check_census(settings.census)
    listed = DeviceList.read(*labels).devices if labels else None
    folders = captures_of_sites(captures, capture_date, sites)
    store, registry = Store(settings.storage.root), Registry(settings.tracking, settings.storage.root)
    champion, why_none = find_champion(registry)
    sizes = {site: size_of(folder) for site, folder in folders.items()}
    spark = session_for(settings.spark, _STEP, size_bytes=sum(sizes.values()))
    model = None
    if champion:
        with TemporaryDirectory() as folder:
            model, _ = broadcast_model(spark, registry.bundle(champion.number, folder))
    failed, watched = [], []
    shared = Shared(capture_date, settings, champion, model, listed, again)
    for number, outcome in enumerate(process_sites(spark, shared, folders, sizes), start=1):
        click.echo(f"[{number}/{len(folders)}] site {outcome.site}: {outcome.error or 'done'}", err=True)
        if outcome.error:
            failed.append(outcome)
            continue
        census = store.open("census", PartitionKey.of_date(outcome.site, capture_date))
        watched += [outcome.site] * bool(census.metadata["watched"])
        command.print_lines(*output.format_site(census))
    if why_none:
        command.print_lines(f"hint: {why_none}")
    command.print_lines(f"sites: {len(folders) - len(failed):,} of {len(folders):,} done")
    if failed:
        raise SitesError.of({each.site: each.error for each in failed}, {each.exit_code for each in failed})
    if watched and settings.watchlist.fail:
        raise WatchError(
            f"watchlist: all censuses are written; {len(watched):,} sites have watched devices: {', '.join(watched)}; "
            "see their pages, and set watchlist.fail=false to end without an error"
        )


def captures_of_sites(root: str, capture_date: str, sites: Sequence[str]) -> dict[str, str]:
    """Site -> its folder ROOT/SITE/DATE; without ``sites``, of all that have one.

    Raises:
        InputError: there is none.
    """
    filesystem, path = open_filesystem(root)
    named = list(sites) or [
        site for site in folders_in(filesystem, path) if path_exists(filesystem, f"{path}/{site}/{capture_date}")
    ]
    if not named:
        raise InputError(
            f"--captures {root}: holds no folder SITE/{capture_date}; give the folder above the sites' folders, or "
            "check --date"
        )
    return {site: f"{root.rstrip('/')}/{site}/{capture_date}" for site in named}


def process_sites(
    spark: Session, shared: Shared, captures: Mapping[str, str], sizes: Mapping[str, int]
) -> Iterator[Outcome]:
    """Split, assemble and take the census of every site, several at a time; yields each when it has ended.

    ``captures``: site -> folder or URI. ``sizes``: site -> bytes of captures; sites with most are begun first.
    """
    order = sorted(captures, key=lambda site: (-sizes[site], site))
    if isinstance(spark, InProcess):
        for site in order:
            outcome = run_site(spark, shared, site, captures[site])
            if outcome.is_large:  # small captures may have many flows
                outcome = run_site(spark_session(shared.settings.spark, _STEP), shared, site, captures[site])
            yield outcome
        return
    threads = min(max(spark.sparkContext.defaultParallelism, 2), _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        run = partial(_run_from_driver, spark, shared)
        started = [pool.submit(run, site, captures[site], sizes[site]) for site in order]
        yield from (ended.result() for ended in as_completed(started))


def run_site(session: Session, shared: Shared, site: str, location: str) -> Outcome:
    """All steps of one site; an error becomes its outcome."""
    return _caught(site, lambda: _steps(session, shared, site, location))


def _run_from_driver(spark: SparkSession, shared: Shared, site: str, location: str, size_bytes: int) -> Outcome:
    settings = shared.settings
    # the key of pseudonyms is on the driver only
    if size_bytes <= settings.spark.in_process_bytes and settings.census.pseudonyms == "off":
        set_phase(spark, "ingest-sites", f"all steps of site {site}, {shared.capture_date}")
        small = partial(run_site, shared=shared, site=site, location=location)
        outcome = _caught(site, lambda: _in_one_task(spark, small))
        if not outcome.is_large:
            return outcome
    # a session of its own, as the number of shuffle partitions is set for each site
    return run_site(spark.newSession(), shared, site, location)


def _in_one_task(spark: SparkSession, run: Callable[[Session], Outcome]) -> Outcome:
    rows = spark.sparkContext.parallelize([run], 1).mapPartitions(in_worker(_run_all))
    [outcome] = rows.collect()
    return outcome


def _run_all(runs: Iterable[Callable[[Session], Outcome]]) -> Iterator[Outcome]:
    for run in runs:
        yield run(InProcess())


def _steps(session: Session, shared: Shared, site: str, location: str) -> Outcome:
    settings, store = shared.settings, Store(shared.settings.storage.root)
    key, unless = PartitionKey.of_date(site, shared.capture_date), not shared.again
    spark = None if isinstance(session, InProcess) else session
    write_splits(spark, store, location, site, shared.capture_date, settings.capture, unless_current=unless)
    flows = write_flows(
        session, store, site, shared.capture_date, settings.capture, settings.flow, unless_current=unless
    )
    is_small = flows.metadata["rows"] <= settings.spark.in_process_flows
    if spark is None and not is_small:
        return Outcome(site, is_large=True)
    take_census(
        InProcess() if is_small else session, store, key, shared.champion, shared.model, settings.census,
        settings.watchlist, settings.dataset.protocols, shared.listed, unless_current=unless,
    )  # fmt: skip
    return Outcome(site)


def _caught(site: str, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except Exception as fault:  # noqa: BLE001 - one site's fault, whatever it is, must not stop the others
        cause = fault if isinstance(fault, IotidError) else raised_in_worker(fault)
        if not isinstance(cause, IotidError):
            cause = as_iotid_error(cause or fault, in_worker=cause is not None)
        if cause is None:
            _log.warning("site %s: %s", site, format_traceback(fault))
            first_line = str(fault).partition("\n")[0]
            return Outcome(site, one_line(f"{type(fault).__name__}: {first_line}; the log has more"), 1)
        return Outcome(site, str(cause), cause.exit_code)


def size_of(location: str) -> int:
    """Bytes of all files below the location; 0 if it cannot be read, which its own steps then report."""
    from pyarrow import fs

    try:
        filesystem, path = open_filesystem(location)
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, IotidError):
        return 0
    return sum(info.size or 0 for info in infos if info.is_file)
