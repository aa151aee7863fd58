"""Options shared by commands, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted_location
from iotid.storage import local_path, text_of

Names = tuple[str, ...]


class _Date(click.ParamType):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return datetime.strptime(str(value), "%Y-%m-%d").date().isoformat()
        except ValueError:
            self.fail(f"{value!r} is not a date; write it as 2026-01-31", param, ctx)


class _Name(click.ParamType):
    """Names become folder names and identifiers, so only characters that are safe everywhere are allowed."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(value)):
            self.fail(
                f"{value!r} must be letters, digits, '.', '_' and '-', and begin with a letter or digit", param, ctx
            )
        return str(value)


class _Location(click.ParamType):
    """A path or URI; paths become absolute, because they are stored and read from other working folders."""

    name = "LOCATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = local_path(str(value))
        if path is not None:
            try:
                return text_of(str(Path(path).expanduser().absolute()))
            except RuntimeError as fault:  # ~nobody
                self.fail(f"{value!r}: {fault}", param, ctx)
        if holds_credentials(str(value)):
            self.fail(f"{NO_CREDENTIALS}, got {redacted_location(str(value))}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def unique(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Remove duplicate sites or dates, whose flows would be counted twice."""
    return tuple(dict.fromkeys(values))


DATE = _Date()
NAME = _Name()
LOCATION = _Location()
STRICT = ("capture.strict=true",)  # what --strict sets


def config_option(default: Sequence[str]) -> Callable[[Any], Any]:
    return click.option(
        "--config",
        "config_files",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        default=default,
        show_default=", ".join(default) or False,
        help="Settings laid over conf/base.yaml: a path, or a name in conf/ such as local.yaml. Repeatable, later "
        "wins.",
    )


settings = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="One setting, laid over all files, as in training.epochs=10. Repeatable, later wins.",
)
site = click.option("--site", required=True, type=NAME, help="Site that the captures come from.")
sites = click.option(
    "--site", "sites", required=True, multiple=True, type=NAME, callback=unique, help="Site to read. Repeatable."
)
date = click.option("--date", "capture_date", required=True, type=DATE, help="Date that the captures belong to.")
dates = click.option(
    "--date",
    "capture_dates",
    required=True,
    multiple=True,
    type=DATE,
    callback=unique,
    help="Capture date to read. Repeatable.",
)
network_sites = click.option(
    "--site",
    "sites",
    multiple=True,
    type=NAME,
    callback=unique,
    help="Site that the network should have; without its census it counts as missing. Repeatable. Default: all sites "
    "that have a census in these days.",
)
some_sites = click.option(
    "--site", "sites", multiple=True, type=NAME, callback=unique, help="Only this site; default: all. Repeatable."
)
some_dates = click.option(
    "--date",
    "capture_dates",
    multiple=True,
    type=DATE,
    callback=unique,
    help="Only this capture date; default: all. Repeatable.",
)
skip_absent = click.option(
    "--skip-absent",
    is_flag=True,
    help="Leave out sites and dates that have no flows, instead of stopping at the first.",
)
captures = click.option(
    "--captures",
    required=True,
    type=LOCATION,
    help="Capture file, or folder that is searched for captures (pcap, pcapng, also .gz .zst .bz2 .xz), or a URI.",
)

captures_of_sites = click.option(
    "--captures", required=True, type=LOCATION, help="Folder or URI that has the captures of each site in SITE/DATE."
)
sites_with_captures = click.option(
    "--site",
    "sites",
    multiple=True,
    type=NAME,
    callback=unique,
    help="Site to process. Repeatable. Default: all that have a folder SITE/DATE.",
)


def _device_list(text: str, *, required: bool = False) -> Callable[[Any], Any]:
    text = f"{text} Repeatable: several lists are one."
    return click.option("--labels", required=required, multiple=True, type=click.Path(), metavar="FILE", help=text)


_LIST = "Device list, YAML or CSV: names with MACs, addresses or path patterns. conf/datasets/ has examples."
labels = _device_list(_LIST, required=True)
labels_to_train = _device_list(f"{_LIST} A model is trained on it; without a list, none is.")
labels_if_any = _device_list(f"{_LIST} May be left out where groups have names (iotid name).")
census_labels = _device_list(
    "Device list, YAML or CSV, to compare the census with: your names of the devices, which were found, and which are "
    "on no list."
)
dataset = click.option("--dataset", required=True, type=NAME, help="Name of the dataset.")
result = click.option("--name", required=True, type=NAME, help="Name under which the result is stored.")
baselines = click.option(
    "--baselines", metavar="NAME,NAME…", help="Baselines to score, instead of those of evaluation.baselines."
)
strict = click.option(
    "--strict",
    is_flag=True,
    help="Fail at the first broken record or malformed packet, with its file and byte, instead of counting it; "
    "the same as --set capture.strict=true.",
)


def day_before(before: str | None, older_than: int | None) -> str:
    """The date before which capture dates are old: that of --before, or --older-than days ago (UTC)."""
    if (before is None) == (older_than is None):
        raise click.UsageError("give --before YYYY-MM-DD or --older-than DAYS, one of them")
    return before or (datetime.now(UTC).date() - timedelta(days=older_than or 0)).isoformat()
