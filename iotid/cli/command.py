"""What all commands share: loading settings, results on stdout, errors as one line and an exit code.

A step declares its command with `step` and the options of `options`; ``iotid STEP`` and ``spark-submit jobs/STEP.py``
run the same command.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from iotid import messages
from iotid.cli import options
from iotid.cli.machine_errors import as_iotid_error
from iotid.cli.options import STRICT, Names
from iotid.config import Settings, load_settings
from iotid.errors import InputError, IotidError
from iotid.messages import one_line
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas.metadata import Flows
from iotid.spark.worker_errors import raised_in_worker


class SafeCommand(click.Command):
    """A command whose usage errors are escaped: no control characters from the command line."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as fault:
        fault.message = one_line(fault.message)  # type: ignore[misc]  # keep the exception, which has the usage text
        raise


class Step(SafeCommand):
    """A command that reports iotid's errors, also those of Spark workers, as one line and exits with their code.

    ``function``: the body, called with ``settings`` and the values of the options.
    """

    function: Callable[..., None]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IotidError as fault:
            raise _StepError(fault) from None
        except Exception as fault:
            cause = raised_in_worker(fault)
            if not isinstance(cause, IotidError):
                cause = as_iotid_error(cause or fault, in_worker=cause is not None)
            if cause is None:
                raise
            raise _StepError(cause) from None


def step(name: str, config: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Step]:
    """Decorator that makes a function a step's command; its first argument is ``settings``, from --config and --set.

    ``config``: the default of ``--config``.
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
        for option in (options.settings, options.config_option(config)):
            described = option(described)
        declared = click.command(name, cls=Step, context_settings={"max_content_width": 100})(described)
        declared.function = function
        return declared

    return declare


def run_job(command: click.Command) -> None:
    """Entry point of a job file: parse the command line, run the step, stop Spark, exit with the step's exit code."""
    messages.log_to_stderr()
    try:
        command()
    finally:
        _stop_spark()


def print_lines(*lines: str) -> None:
    """Print results to stdout, escaped, one per line."""
    for line in lines:
        click.echo(one_line(line))


def command_settings(files: Sequence[str], overrides: Sequence[str]) -> Settings:
    """Settings from ``files`` and ``overrides``, overridden by the running command's ``--config`` and ``--set``."""
    params = click.get_current_context().params
    strict = STRICT * params.get("strict", False)
    return load_settings([*files, *params["config_files"]], [*overrides, *params["overrides"], *strict])


def open_flows(
    store: Store, sites: Names, capture_dates: Names, *, skip_absent: bool = False
) -> list[Partition[Flows]]:
    """The partitions of ``flows`` of all sites and dates; ``skip_absent``: only existing ones.

    Raises:
        AbsentError: one is absent.
        InputError: all are absent.
    """
    asked = [PartitionKey.of_date(site, capture_date) for site in sites for capture_date in capture_dates]
    found = [store.open("flows", key) for key in asked if not skip_absent or store.exists("flows", key)]
    if not found:
        raise InputError(f"--date: none of {len(asked)} partitions of flows is in {store.root}; assemble some first")
    return found


class _StepError(click.ClickException):
    """An iotid error for click: ``Error: …`` on one line, with the error's exit code."""

    def __init__(self, fault: IotidError) -> None:
        super().__init__(str(fault))
        self.exit_code = fault.exit_code  # type: ignore[misc]  # click expects it on the instance


def _stop_spark() -> None:
    if "pyspark" in sys.modules:
        from pyspark.sql import SparkSession

        session = SparkSession.getActiveSession()
        if session is not None:
            session.stop()
