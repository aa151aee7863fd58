"""`iotid demo`: the whole way on captures that it writes itself."""

from __future__ import annotations

from pathlib import Path

import click

from iotid.cli import command
from iotid.cli.run import Night, check, layers_of_this_command, run_nights
from iotid.config import Settings
from iotid.errors import SettingError
from iotid.messages import one_line


@command.step("demo", config=("local.yaml", "demo.yaml"))
def main(settings: Settings) -> None:
    """Write captures of two made-up sites on two nights, then do the whole way on them.

    Learns from the first night of both sites and takes the census of both nights: the second night has a device that
    is new, one that is gone and one that the model never saw.
    """
    from iotid.simulate.captures import write_demo

    if "://" in settings.storage.root:
        raise SettingError(f"storage.root: the demo needs a local folder, got {settings.storage.root}")
    folder = Path(settings.storage.root) / "demo"
    click.secho(one_line(f"writing captures below {folder}"), bold=True, err=True)
    write_demo(folder)
    devices = str(folder / "devices.yaml")
    check(settings, [devices])
    nights = [Night(date.parent.name, date.name, str(date)) for date in sorted((folder / "captures").glob("*/*"))]
    first = min(night.date for night in nights)
    learn_from = [night for night in nights if night.date == first]
    run_nights(nights, learn_from, [devices], "demo", layers_of_this_command())


if __name__ == "__main__":
    command.run_job(main)
