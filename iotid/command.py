"""The one grammar of all commands: shared options, and errors that end in one line and an exit code.

A job declares its command with these pieces; ``iotid STEP`` and ``spark-submit jobs/STEP.py`` are then the same.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from iotid import errors
from iotid.config import NO_PASSWORD, holds_password, load_settings
from iotid.errors import IotidError
from iotid.storage import local_path, text_of

_WORKER_ERROR = re.compile(r"^(?:\w+\.)*iotid\.errors\.(\w+): (.+)$", re.MULTILINE)
_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO,
)  # fmt: skip
_WORKER_LACKS = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'$", re.MULTILINE)


class Step(click.Command):
    """A command that reports iotid's errors in one line and exits with their code, also those raised in a worker."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IotidError as fault:
            raise _OneLine(fault) from None
        except Exception as fault:
            explained = (explain(fault) for explain in _EXPLANATIONS)
            known = next((each for each in explained if each is not None), None)
            if known is None:
                raise
            raise _OneLine(known) from None


def step(name: str, config: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Step]:
    """Declare a step's command; its function gets ``settings`` first, made from ``--config`` and ``--set``.

    ``config``: the ``--config`` of a command line that has none.
    """

    def declare(function: Callable[..., Any]) -> Step:
        @functools.wraps(function)
        def with_settings(config_files: tuple[str, ...], overrides: tuple[str, ...], **rest: Any) -> Any:
            if rest.pop("strict", False):
                overrides = (*overrides, *STRICTLY)
            return function(load_settings(config_files, overrides), **rest)

        described: Callable[..., Any] = with_settings
        for option in (_SET, _config_option(config)):
            described = option(described)
        return click.command(name, cls=Step, context_settings={"max_content_width": 100})(described)

    return declare


def run_job(command: click.Command) -> None:
    """Entry point of a job file: parse the command line, run the step, stop Spark, exit with the step's code."""
    logging_to_stderr()
    try:
        command()
    finally:
        _stop_spark()


def logging_to_stderr() -> None:
    """Progress and notes of iotid go to stderr, results to stdout; other libraries speak from WARNING on."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("iotid").setLevel(logging.INFO)


def say(text: str) -> None:
    """A result for the person who runs the command."""
    click.echo(text)


def captures_text(splits: Mapping[str, Any]) -> str:
    """What the metadata of a night's splits says of its captures."""
    text = f"{splits['files'] - splits['files_unplanned']:,} captures, {splits['bytes']:,} bytes"
    notes = {
        "more in quarantine, not read": len(splits["unreadable"]),
        "further names of the same captures": splits["files_same"],
        "that begin with the packet of another, counted twice": splits["files_alike"],
        "other files ignored": splits["files_ignored"],
    }
    counted = [f"{count:,} {what}" for what, count in notes.items() if count]
    return text + f" ({', '.join(counted)})" * bool(counted)


class _Date(click.ParamType):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return datetime.strptime(str(value), "%Y-%m-%d").date().isoformat()
        except ValueError:
            self.fail(f"{value!r} is not a date; write it as 2026-01-31", param, ctx)


class _Name(click.ParamType):
    """Names become folder names and identifiers: kept to characters that are safe everywhere."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(value)):
            self.fail(
                f"{value!r} must be letters, digits, '.', '_' and '-', and begin with a letter or digit", param, ctx
            )
        return str(value)


class _Location(click.ParamType):
    """A path or URI; paths are made absolute, because the table that remembers them is read from other folders."""

    name = "LOCATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = local_path(str(value))
        if path is not None:
            try:
                return text_of(str(Path(path).expanduser().absolute()))
            except RuntimeError as fault:  # ~nobody
                self.fail(f"{value!r}: {fault}", param, ctx)
        if holds_password(str(value)):
            self.fail(NO_PASSWORD, param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def _each_once(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """A night that is named twice is one: its flows would count twice."""
    return tuple(dict.fromkeys(values))


DATE = _Date()
NAME = _Name()
LOCATION = _Location()
STRICTLY = ("capture.strict=true",)  # what --strict sets


def _config_option(default: Sequence[str]) -> Callable[[Any], Any]:
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


_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="One setting, laid over all files, as in training.epochs=10. Repeatable, later wins.",
)
site = click.option("--site", required=True, type=NAME, help="Site that the captures come from.")
sites = click.option(
    "--site", "sites", required=True, multiple=True, type=NAME, callback=_each_once, help="Site to read. Repeatable."
)
date = click.option("--date", "capture_date", required=True, type=DATE, help="Night that the captures belong to.")
dates = click.option(
    "--date",
    "capture_dates",
    required=True,
    multiple=True,
    type=DATE,
    callback=_each_once,
    help="Night to read. Repeatable.",
)
skip_absent = click.option(
    "--skip-absent", is_flag=True, help="Leave out nights that have no flows, instead of stopping at the first."
)
captures = click.option(
    "--captures",
    required=True,
    type=LOCATION,
    help="Capture file, or folder searched through for captures (pcap, pcapng, also .gz .zst .bz2 .xz), or a URI.",
)
labels = click.option(
    "--labels",
    required=True,
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Device list, YAML or CSV: names with MACs, addresses or path patterns. conf/datasets/ holds examples. "
    "Repeatable: several lists are one.",
)
dataset = click.option("--dataset", required=True, type=NAME, help="Name of the dataset.")
result = click.option("--name", required=True, type=NAME, help="Name under which the result is kept.")
baselines = click.option(
    "--baselines", metavar="NAME,NAME…", help="Rivals to score beside it, instead of those of evaluation.baselines."
)
strict = click.option(
    "--strict",
    is_flag=True,
    help="Fail at the first broken record or malformed packet, with its file and byte, instead of counting it; "
    "the same as --set capture.strict=true.",
)


def _raised_in_worker(fault: Exception) -> IotidError | None:
    """The iotid error behind a Spark failure, found by the name and text that the worker's traceback ends with."""
    matches = _WORKER_ERROR.findall(str(fault))
    kind = getattr(errors, matches[-1][0], None) if matches else None
    return kind(matches[-1][1]) if isinstance(kind, type) and issubclass(kind, IotidError) else None


def _full_disk(fault: Exception) -> IotidError | None:
    """What a full disk is called, wherever it was met: in this process, in a Spark worker or in Java."""
    told = str(fault)
    if not any(os.strerror(number) in told for number in (errno.ENOSPC, errno.EDQUOT)):
        return None
    return errors.SpaceError(
        "the disk is full: free some space below storage.root, and where Spark and Python put their temporary files "
        "(spark.local.dir, TMPDIR), then run the step again; what was there before it is unchanged"
    )


def _without_packages(fault: Exception) -> IotidError | None:
    """What it is called that a Spark worker's Python lacks a package, which is another Python than this one."""
    lacks = _WORKER_LACKS.search(str(fault))
    return lacks and errors.SetupError(
        f"Spark's workers run a Python without {lacks[1]}; set PYSPARK_PYTHON to one that has the packages of "
        "requirements.lock, and lies at the same path on every machine"
    )


def _without_extra(fault: Exception) -> IotidError | None:
    """What it is called that this Python lacks a package which one of iotid's extras, the smallest, would bring."""
    package = (fault.name or "").partition(".")[0] if isinstance(fault, ModuleNotFoundError) else ""
    try:
        lines = requires("iotid") or []
    except PackageNotFoundError:  # it travelled in a zip (spark-submit --py-files)
        return None
    declared = [re.match(r"([\w.-]+).*extra == ['\"](\w+)", line) for line in lines]
    sizes = Counter(match[2] for match in declared if match)
    bring = (match[2] for match in declared if match and match[1] == package)
    extras = sorted(bring, key=lambda extra: (sizes[extra], extra == "all"))
    if not extras:
        return None
    return errors.SetupError(
        f"this command needs the package {package}, which is not installed; run: pip install 'iotid[{extras[0]}]'"
    )


def _refused(fault: Exception) -> IotidError | None:
    """What the filesystem's refusal of a file is called, whoever asked for it."""
    if not isinstance(fault, OSError) or fault.errno not in _REFUSALS:
        return None
    return errors.UserError(f"{fault}; see that the file is there, and that you may read or write it")


_EXPLANATIONS = (_raised_in_worker, _full_disk, _without_packages, _without_extra, _refused)


class _OneLine(click.ClickException):
    """An iotid error as click reports it: ``Error: …`` on one line, and the error's own exit code."""

    def __init__(self, fault: IotidError) -> None:
        super().__init__(" ".join(str(fault).split()))
        self.exit_code = fault.exit_code  # type: ignore[misc]  # click means it to be set so


def _stop_spark() -> None:
    if "pyspark" in sys.modules:
        from pyspark.sql import SparkSession

        session = SparkSession.getActiveSession()
        if session is not None:
            session.stop()
