"""The command `iotid STEP …`. Steps are imported on demand; `jobs/` submits the same steps to Spark."""

from __future__ import annotations

import importlib

import click

from iotid import __version__
from iotid.cli import command
from iotid.errors import EXIT_CODES

_STEPS = {
    "split-pcaps": "iotid.cli.split_pcaps",
    "assemble-flows": "iotid.cli.assemble_flows",
    "write-dataset": "iotid.cli.write_dataset",
    "train": "iotid.cli.train",
    "evaluate": "iotid.cli.evaluate",
    "promote": "iotid.cli.promote",
    "rollback": "iotid.cli.rollback",
    "take-census": "iotid.cli.take_census",
    "take-network-census": "iotid.cli.take_network_census",
    "ingest-sites": "iotid.cli.ingest_sites",
    "name": "iotid.cli.name",
    "export": "iotid.cli.export",
    "look": "iotid.cli.inventory",
    "compare": "iotid.cli.compare",
    "describe": "iotid.cli.describe",
    "prune": "iotid.cli.prune",
    "relocate": "iotid.cli.relocate",
    "run": "iotid.cli.run",
    "reproduce": "iotid.cli.reproduce",
    "demo": "iotid.cli.demo",
    "settings-schema": "iotid.cli.settings_schema",
}


class _Steps(command.SafeCommand, click.Group):
    """Lists the steps in pipeline order, and imports a step's module on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_STEPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _STEPS.get(cmd_name)
        found: click.Command | None = importlib.import_module(module).main if module else None
        return found


_EXIT_CODES = "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items())


@click.group(
    cls=_Steps,
    context_settings={"max_content_width": 100},
    epilog=f"\b\nExit codes of all commands (docs/how-to.md):\n{_EXIT_CODES}",
)
@click.version_option(__version__, prog_name="iotid")
def steps() -> None:
    """Identifies the IoT devices behind network captures.

    The steps, in the order of the data flow: split-pcaps, assemble-flows, write-dataset, train, evaluate, promote,
    take-census, take-network-census. `ingest-sites` does the first two and take-census for many sites at once.
    `rollback` undoes a promotion. `name` says what a group of unknown devices is,
    `export` writes a census for other systems, `look` lists the devices in one capture at once, without Spark.
    `compare` scores the ensemble and its baselines under several protocols, `describe` draws what distinguishes the
    devices. `run` runs the full pipeline on a folder of captures, `demo` on captures that it writes itself; `reproduce`
    repeats the paper's experiment on one of its datasets and compares the numbers. `prune` deletes old partitions,
    `relocate` lets a storage root that was copied or moved use its own artifacts. `settings-schema` prints a JSON
    schema of files of settings, for editors.
    """


def main() -> None:
    command.run_job(steps)
