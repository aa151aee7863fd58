"""The whole way in one process: every step in its order, by the command lines that a person would type."""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click

from iotid.cli import command
from iotid.config import Settings, load_settings
from iotid.messages import one_line
from iotid.partitions import PartitionKey, Store


@dataclass(frozen=True)
class Night:
    """The captures of one site on one night."""

    site: str
    date: str
    captures: str

    @property
    def arguments(self) -> list[str]:
        return ["--site", self.site, "--date", self.date]


def check(settings: Settings, labels: Sequence[str]) -> None:
    """See now what would stop a later step after hours: the device list and names for it, the census key, the machine.

    Raises:
        UserError: one of them is not as it must be.
    """
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.labels import DeviceList
    from iotid.labels.names import check_names

    check_names(DeviceList.read(*labels), settings.dataset, settings.promotion, settings.watchlist)
    read_pseudonyms(settings.census)
    check_machine(settings)


def check_machine(settings: Settings) -> None:
    """See that the tracking server answers, and that there is a GPU where training must have one.

    Raises:
        UserError: one of them is not there.
    """
    from iotid.spark.session import runs_here
    from iotid.tracking.registry import CHAMPION, Registry

    registry = Registry(settings.tracking, settings.storage.root)
    if registry.uri == settings.tracking.uri:
        registry.find_version(CHAMPION)
    if settings.training.device == "cuda" and runs_here(settings.spark):
        from iotid.training.fit import find_device

        find_device(settings.training)


def run_nights(
    nights: Sequence[Night],
    learn_from: Sequence[Night],
    labels: Sequence[str],
    dataset: str,
    layers: Sequence[str],
) -> None:
    """Ingest every night, learn from ``learn_from`` (sites by dates), promote, and take every night's census.

    ``layers`` are the ``--config`` and ``--set`` arguments that every step gets. A step that fails ends the run with
    its own error. Ends with a summary on stdout.

    Raises:
        WatchError: after all that, where the watch list asks for it and a census met a watched device.
    """
    from iotid.census import check_watchlist

    sites = dict.fromkeys(night.site for night in learn_from)
    dates = dict.fromkeys(night.date for night in learn_from)
    selection = [part for site in sites for part in ("--site", site)]
    selection += [part for date in dates for part in ("--date", date)]
    lines: list[list[str]] = []
    for night in nights:
        lines.append(["split-pcaps", "--captures", night.captures, *night.arguments])
        lines.append(["assemble-flows", *night.arguments])
    lists = [part for path in labels for part in ("--labels", path)]
    lines.append(["write-dataset", *selection, *lists, "--dataset", dataset])
    lines += [[name, "--dataset", dataset] for name in ("train", "evaluate", "promote")]
    lines += [["take-census", *night.arguments] for night in nights]
    started = time.monotonic()
    run_steps(lines, [*layers, "--set", "watchlist.fail=false"])  # or else the nights after it would have no census
    settings = settings_of(layers)
    command.say(*_summary(settings, nights, dataset, time.monotonic() - started))
    store = Store(settings.storage.root)
    for night in nights:
        check_watchlist(store.open("census", PartitionKey.of_date(night.site, night.date)), settings.watchlist)


def run_steps(lines: Sequence[Sequence[str]], layers: Sequence[str]) -> None:
    """Run command lines, each a step's name and its arguments, one after the other; all get ``layers``."""
    for number, (name, *arguments) in enumerate(lines, start=1):
        click.secho(one_line(f"[{number}/{len(lines)}] iotid {name} {shlex.join(arguments)}"), bold=True, err=True)
        step = importlib.import_module(f"iotid.cli.{name.replace('-', '_')}").main
        step.main([*layers, *arguments], prog_name=f"iotid {name}", standalone_mode=False)


def settings_of(layers: Sequence[str]) -> Settings:
    """What a step makes of the ``--config`` and ``--set`` arguments ``layers``."""
    overrides = [layers[i + 1] for i, part in enumerate(layers) if part == "--set"]
    files = [layers[i + 1] for i, part in enumerate(layers) if part == "--config"]
    return load_settings(files, overrides)


def layers_of_this_command() -> list[str]:
    """The ``--config`` and ``--set`` arguments of the command that is running, for the steps that it starts."""
    given = click.get_current_context().params
    files = [part for path in given["config_files"] for part in ("--config", path)]
    overrides = [*given["overrides"], *command.STRICTLY * given.get("strict", False)]
    return files + [part for text in overrides for part in ("--set", text)]


@command.step("run")
@command.captures
@command.labels
@click.option("--site", type=command.NAME, default="local", show_default=True, help="Site that the captures come from.")
@click.option("--date", "capture_date", type=command.DATE, help="Night; default: the day (UTC) of the first packet.")
@command.strict
def main(settings: Settings, captures: str, labels: tuple[str, ...], site: str, capture_date: str | None) -> None:
    """Do the whole way on a folder of captures: splits, flows, dataset, training, report, promotion, census."""
    from iotid.capture import first_day

    check(settings, labels)
    night = Night(site, capture_date or first_day(captures, settings.capture), captures)
    run_nights([night], [night], labels, f"{site}-{night.date}", layers_of_this_command())


def _summary(settings: Settings, nights: Sequence[Night], dataset: str, seconds: float) -> list[str]:
    from iotid.tracking.registry import Registry

    store = Store(settings.storage.root)
    lines = ["", f"Done in {seconds:.0f} s.", "", "What was read"]
    for night in nights:
        keys = PartitionKey.of_date(night.site, night.date)
        splits, flows = store.open("splits", keys).metadata, store.open("flows", keys).metadata
        packets = {reason: count for reason, count in flows["packets"].items() if count}
        aside = ", ".join(f"{count:,} {reason}" for reason, count in sorted(packets.items()) if reason != "flow")
        lines.append(
            f"  {night.site} {night.date}: {command.captures_text(splits)}, "
            f"{sum(packets.values()):,} packets -> {flows['rows']:,} flows ({aside or 'nothing'} left aside)"
        )
        if flows["overlapping"]:
            lines.append(f"    {flows['overlapping']:,} captures hold packets of others, which are counted twice")
    written = store.open("datasets", PartitionKey.named(dataset))
    lines += ["", "What was learned", f"  {written.metadata['summary']}"]
    lines += [f"  {line}" for line in store.open("reports", PartitionKey.of_dataset(dataset)).metadata["summary"]]
    lines += ["", "What was counted"]
    for night in nights:
        census = store.open("census", PartitionKey.of_date(night.site, night.date))
        statuses = ", ".join(f"{count:,} {status}" for status, count in census.metadata["status"].items() if count)
        changes = ", ".join(f"{count:,} {change}" for change, count in census.metadata["changes"].items() if count)
        groups = f" in {count:,} group{'s' * (count != 1)}" if (count := census.metadata["groups"]) else ""
        lines.append(
            f"  {night.site} {night.date}: {census.metadata['devices']:,} devices: {statuses}{groups}; {changes}"
        )
        lines.append(f"    page: {census.uri}/_census.html")
    lines += [
        "",
        "Where things are",
        f"  report    {store.open('reports', PartitionKey.of_dataset(dataset)).uri}/report.html",
        f"  tracking  {Registry(settings.tracking, settings.storage.root).uri}",
        f"  tables    {settings.storage.root}/{{splits,flows,datasets,reports,census}}",
    ]
    return lines


if __name__ == "__main__":
    command.run_job(main)
