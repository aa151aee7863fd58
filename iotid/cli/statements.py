"""The options of `iotid name`, and the statement that they make."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import click

from iotid.errors import InputError
from iotid.labels.group_names import NAME, REJECT, SPLIT, Statement

_OPTIONS = (
    click.option("--model", metavar="M", help="Name it: the model of its devices, as in a device list."),
    click.option("--vendor", metavar="V", default="", help="With --model: the vendor."),
    click.option("--type", "type_", metavar="T", default="", help="With --model: the type."),
    click.option("--reject", is_flag=True, help="Its devices get no name; withdraws what was said before."),
    click.option(
        "--split",
        is_flag=True,
        help="It is several kinds: the next census forms new groups of its devices, with a higher similarity.",
    ),
    click.option("--list", "list_all", is_flag=True, help="Print all groups, and what was said about them."),
    click.option("--by", metavar="WHO", help="Who says it; default: the login name."),
)


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say something about a group."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def asks_for_list(group: str | None, given: dict[str, Any]) -> bool:
    """Whether --list is given, and nothing is said."""
    is_said = group is not None or given["model"] is not None or given["reject"] or given["split"]
    return bool(given["list_all"]) and not is_said


def statement_of(group: str | None, sites: tuple[str, ...], dates: tuple[str, ...], given: dict[str, Any]) -> Statement:
    """The statement of the options' values.

    Raises:
        InputError: there is no group, none or several of --model, --reject and --split, or no login name.
    """
    chosen = [
        action
        for action, is_given in (
            (NAME, given["model"] is not None),
            (REJECT, given["reject"]),
            (SPLIT, given["split"]),
            ("list", given["list_all"]),
        )
        if is_given
    ]
    if not group or len(chosen) != 1 or given["list_all"]:
        raise InputError(
            "name: give a GROUP and one of --model, --reject and --split, as in iotid name g0123456789 --model 'Cam 2' "
            "--vendor Acme --type camera; or --list alone"
        )
    names = {"model": given["model"] or "", "vendor": given["vendor"], "type": given["type_"]}
    by = _login_name() if given["by"] is None else given["by"]
    return Statement(group, chosen[0], by, sites=sites, dates=dates, **names)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no variable and no entry in the password database, as in containers
        raise InputError("--by: this machine has no login name; give the name of the person who says it") from None
