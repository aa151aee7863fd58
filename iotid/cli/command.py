"""The one grammar of all commands: shared options, and errors that end in one line and an exit code.

A job declares its command with these pieces; ``iotid STEP`` and ``spark-submit jobs/STEP.py`` are then the same.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from iotid import errors, messages
from iotid.config import Settings, load_settings
from iotid.errors import InputError, IotidError
from iotid.messages import NO_CREDENTIALS, holds_credentials, one_line, redacted_location
from iotid.partitions import Partition, PartitionKey, Store
from iotid.spark.worker_errors import raised_in_worker
from iotid.storage import local_path, text_of

_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO,
)  # fmt: skip
Names = tuple[str, ...]
_WORKER_LACKS = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'$", re.MULTILINE)


class Edge(click.Command):
    """A command whose complaints about its own line hold nothing raw of what was typed."""

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        with _on_one_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _on_one_line():
            return super().invoke(ctx)


@contextmanager
def _on_one_line() -> Iterator[None]:
    try:
        yield
    except click.ClickException as fault:
        fault.message = one_line(fault.message)  # type: ignore[misc]  # of the very exception, which knows its usage
        raise


class Step(Edge):
    """A command that reports iotid's errors in one line and exits with their code, also those raised in a worker.

    ``function``: what it does, with ``settings`` and the values of its options as arguments.
    """

    function: Callable[..., None]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IotidError as fault:
            raise _OneLine(fault) from None
        except Exception as fault:
            cause = raised_in_worker(fault)
            known = cause if isinstance(cause, IotidError) else _explain(cause or fault, in_worker=cause is not None)
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
                overrides = (*overrides, *STRICT)
            settings = load_settings(config_files, overrides)
            umask = os.umask(int(settings.storage.umask, 8))
            try:
                return function(settings, **rest)
            finally:
                os.umask(umask)

        described: Callable[..., Any] = with_settings
        for option in (_SET, _config_option(config)):
            described = option(described)
        declared = click.command(name, cls=Step, context_settings={"max_content_width": 100})(described)
        declared.function = function
        return declared

    return declare


def run_job(command: click.Command) -> None:
    """Entry point of a job file: parse the command line, run the step, stop Spark, exit with the step's code."""
    messages.to_stderr()
    try:
        command()
    finally:
        _stop_spark()


def say(*lines: str) -> None:
    """Results for the person who runs the command, each on a line of its own."""
    for line in lines:
        click.echo(one_line(line))


def settings_over(files: Sequence[str], overrides: Sequence[str]) -> Settings:
    """The settings of the command that is running, with its ``--config`` and ``--set`` laid over these."""
    given = click.get_current_context().params
    strict = STRICT * given.get("strict", False)
    return load_settings([*files, *given["config_files"]], [*overrides, *given["overrides"], *strict])


def open_flows(store: Store, sites: Names, capture_dates: Names, *, skip_absent: bool = False) -> list[Partition]:
    """The partitions of ``flows`` of all sites and dates; ``skip_absent``: of those that there are.

    Raises:
        PartitionError: one is absent.
        InputError: all are.
    """
    asked = [PartitionKey.of_date(site, capture_date) for site in sites for capture_date in capture_dates]
    found = [store.open("flows", key) for key in asked if not skip_absent or store.exists("flows", key)]
    if not found:
        raise InputError(f"--date: none of {len(asked)} partitions of flows is in {store.root}; assemble some first")
    return found


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
        if holds_credentials(str(value)):
            self.fail(f"{NO_CREDENTIALS}, got {redacted_location(str(value))}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def _each_once(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """A site or date that is given twice counts once; its flows would count twice."""
    return tuple(dict.fromkeys(values))


DATE = _Date()
NAME = _Name()
LOCATION = _Location()
STRICT = ("capture.strict=true",)  # what --strict sets


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
date = click.option("--date", "capture_date", required=True, type=DATE, help="Date that the captures belong to.")
dates = click.option(
    "--date",
    "capture_dates",
    required=True,
    multiple=True,
    type=DATE,
    callback=_each_once,
    help="Capture date to read. Repeatable.",
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


def _explain(fault: Exception, *, in_worker: bool) -> IotidError | None:
    """What a fault is called that is the machine's and not iotid's."""
    lacks = _without_package_there if in_worker else _without_extra
    explained = (explain(fault) for explain in (_full_disk, lacks, _worker_without_iotid, _refused))
    return next((each for each in explained if each is not None), None)


def _full_disk(fault: Exception) -> IotidError | None:
    """What a full disk is called, wherever it was met: in this process, in a Spark worker or in Java."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(fault, OSError) and fault.errno is not None:  # its text holds a name
        is_full = fault.errno in full
    else:
        is_full = any(os.strerror(number) in str(fault) for number in full)
    if not is_full:
        return None
    return errors.SpaceError(
        "the disk is full: free some space below storage.root, and where Spark and Python put their temporary files "
        "(spark.local.dir, TMPDIR), then run the step again; what was there before it is unchanged"
    )


def _without_package_there(fault: Exception) -> IotidError | None:
    """What it is called that a Spark worker's Python lacks a package, which is another Python than this one."""
    return _other_python(str(fault.name)) if isinstance(fault, ModuleNotFoundError) else None


def _worker_without_iotid(fault: Exception) -> IotidError | None:
    """The same, where it lacks so much that it could not say so as data: before any capture was opened."""
    lacks = _WORKER_LACKS.search(str(fault)) if type(fault).__module__.startswith(("pyspark.", "py4j.")) else None
    return lacks and _other_python(lacks[1])


def _other_python(package: str) -> IotidError:
    return errors.SetupError(
        f"Spark's workers run a Python without {package}; set PYSPARK_PYTHON to one that has the packages of "
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


class _OneLine(click.ClickException):
    """An iotid error as click reports it: ``Error: …`` on one line, and the error's own exit code."""

    def __init__(self, fault: IotidError) -> None:
        super().__init__(str(fault))
        self.exit_code = fault.exit_code  # type: ignore[misc]  # click means it to be set so


def _stop_spark() -> None:
    if "pyspark" in sys.modules:
        from pyspark.sql import SparkSession

        session = SparkSession.getActiveSession()
        if session is not None:
            session.stop()
