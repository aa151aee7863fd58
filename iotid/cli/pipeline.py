"""Runs the full pipeline in one process, and prints a summary."""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from iotid.cli import command, output
from iotid.config import Settings, with_values
from iotid.messages import one_line
from iotid.partitions import ALL_SITES, PartitionKey, Store


@dataclass(frozen=True)
class SiteCaptures:
    """The captures of one site and capture date: a file, folder or URI."""

    site: str
    capture_date: str
    captures: str

    @property
    def key(self) -> PartitionKey:
        return PartitionKey.of_date(self.site, self.capture_date)


Call = tuple[str, Mapping[str, Any]]
"""(step name, values of its options)"""


def run_pipeline(
    settings: Settings,
    inputs: Sequence[SiteCaptures],
    learn_from: Sequence[SiteCaptures],
    labels: Sequence[str],
    dataset: str,
) -> None:
    """Ingest all inputs, train on ``learn_from`` (sites by dates), promote, and take every census and the network's.

    Prints a summary. Without ``learn_from`` nothing is trained and promoted, and the summary says how to go on.

    A step that fails ends the run with its error.

    Raises:
        WatchError: at the end, if ``watchlist.fail`` is set and a census found a watched device.
    """
    from iotid.census import check_watchlist

    started = time.monotonic()
    # fail=False: a watched device must not stop the run before later censuses
    run_steps(
        list(calls(inputs, learn_from, labels, dataset)),
        settings.model_copy(update={"watchlist": with_values(settings.watchlist, fail=False)}),
    )
    command.print_lines(*_summary(settings, inputs, dataset if learn_from else None, time.monotonic() - started))
    store = Store(settings.storage.root)
    for site in inputs:
        check_watchlist(store.open("census", site.key), settings.watchlist)


def calls(
    inputs: Sequence[SiteCaptures], learn_from: Sequence[SiteCaptures], labels: Sequence[str], dataset: str
) -> Iterator[Call]:
    """Every step of the pipeline, with its options."""
    for site in inputs:
        yield "split-pcaps", {"captures": site.captures, **site.key}
        yield "assemble-flows", site.key
    if learn_from:
        yield (
            "write-dataset",
            {
                "sites": tuple(dict.fromkeys(site.site for site in learn_from)),
                "capture_dates": tuple(dict.fromkeys(site.capture_date for site in learn_from)),
                "labels": tuple(labels),
                "dataset": dataset,
            },
        )
        yield from ((step, {"dataset": dataset}) for step in ("train", "evaluate", "promote"))
    for date in sorted({site.capture_date for site in inputs}):
        of_date = [site for site in inputs if site.capture_date == date]
        yield from (("take-census", {"labels": tuple(labels), **site.key}) for site in of_date)
        yield "take-network-census", {"capture_date": date}


def run_steps(steps: Sequence[Call], settings: Settings) -> None:
    """Run the steps in order, each after a line that shows its command."""
    for number, (name, options) in enumerate(steps, start=1):
        step = importlib.import_module(f"iotid.cli.{name.replace('-', '_')}").main
        line = f"[{number}/{len(steps)}] iotid {name} {_command_line(step, options)}"
        click.secho(one_line(line), bold=True, err=True)
        step.function(settings, **options)


def _command_line(step: click.Command, options: Mapping[str, Any]) -> str:
    words = []
    for parameter in step.params:
        if parameter.name in options:
            value = options[parameter.name]
            for item in value if parameter.multiple else (value,):
                words += [parameter.opts[0], item]
    return shlex.join(words)


def _summary(settings: Settings, inputs: Sequence[SiteCaptures], dataset: str | None, seconds: float) -> Iterator[str]:
    from iotid.tracking import Registry

    store = Store(settings.storage.root)
    yield from ("", f"Done in {seconds:.0f} s.", "", "Coverage")
    for site in inputs:
        flows = store.open("flows", site.key)
        packets, left_out = sum(flows.metadata["packets"].values()), output.format_left_out(flows)
        yield (
            f"  {site.site} {site.capture_date}: {output.format_captures(store.open('splits', site.key).metadata)}, "
            f"{packets:,} packets -> {flows.metadata['rows']:,} flows ({left_out or 'nothing'} left out)"
        )
        if flows.metadata["overlapping"]:
            yield f"    {output.format_overlaps(flows)}"
    report = store.open("reports", PartitionKey.of_dataset(dataset)) if dataset else None
    if dataset and report:
        summary = store.open("datasets", PartitionKey.named(dataset)).metadata["summary"]
        yield from ("", "Model", f"  {summary}", *(f"  {line}" for line in report.metadata["summary"]))
    yield from ("", "Inventory")
    for site in inputs:
        census = store.open("census", site.key)
        metadata, count = census.metadata, census.metadata["groups"]
        groups = f" in {count:,} group{'s' * (count != 1)}" if count else ""
        statuses, changes = output.format_counts(metadata["status"]), output.format_counts(metadata["changes"])
        devices = f"{metadata['devices']:,} device{'s' * (metadata['devices'] != 1)}"
        yield f"  {site.site} {site.capture_date}: {devices}: {statuses}{groups}; {changes}"
        yield f"    page: {census.uri}/_census.html"
    network = max((site.capture_date for site in inputs), default="")
    yield (f"  network: {store.uri('network', PartitionKey.of_network(ALL_SITES, network))}/_network.html")
    yield from (
        "",
        "Outputs",
        *([f"  report    {report.uri}/report.html"] if report else []),
        f"  tracking  {Registry(settings.tracking, settings.storage.root).uri}",
        f"  tables    {settings.storage.root}/{{splits,flows,datasets,reports,census,network}}",
    )
    if report is None:
        yield from (
            "",
            "Left out: dataset, training, report and promotion, because no device list was given (--labels)",
            "  Next: list your devices in a file and run the same command with --labels FILE; or say what the groups",
            "  of unknown devices are (iotid name --list), then iotid write-dataset, train, evaluate and promote",
        )
