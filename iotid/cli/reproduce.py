"""`iotid reproduce`: one of the paper's datasets, for whoever has its captures, put beside what the paper prints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

import iotid
from iotid import schemas
from iotid.cli import command
from iotid.cli.run import Night, check_machine, layers_of_this_command, run_steps, settings_of
from iotid.config import Settings, settings_hash
from iotid.errors import LabelError
from iotid.partitions import Partition, PartitionKey, Store

if TYPE_CHECKING:
    from iotid.labels import DeviceList
    from iotid.studies.paper import Original, Scores
    from iotid.studies.reproduction import Assembly, Comparison, Outcome

_log = logging.getLogger(__name__)

_PAPER = "paper.yaml"


@command.step("reproduce")
@click.option(
    "--dataset",
    required=True,
    type=click.Choice(("tmc18", "sosr19", "iot23", "cic_iot_2022")),  # paper.DATASETS, without loading NumPy for --help
    help="Which of the paper's datasets the captures are.",
)
@command.captures
@click.option("--counts-only", is_flag=True, help="Compare the counts of flows, and learn nothing.")
def main(settings: Settings, dataset: str, captures: str, counts_only: bool) -> None:
    """Do with one of the paper's datasets what the paper did, and put its numbers beside the paper's.

    Reads all captures of the folder, and conf/paper_tables.yaml. Assembles their flows in four ways (with time-outs or
    without, joined or each file on its own) and compares the counts, of TCP alone and of TCP and UDP, with tables 1 and
    2 of the paper. Of the nearest reading it writes a dataset, trains, evaluates, and compares with table 3. Writes the
    table `reproductions`: a page and its numbers. Started again, it goes on from what is there.

    conf/paper.yaml lies under --config and --set. The readings' own are flow.idle_timeout_s, flow.active_timeout_s,
    flow.join_files, dataset.protocols and dataset.label, which lie above.
    """
    from iotid.studies import paper, reproduction

    # a model of its own name, so that the challenger of somebody's network stays what it is
    layers = ["--config", _PAPER, "--set", f"tracking.model=iotid-{dataset}", *layers_of_this_command()]
    settings = settings_of(layers)
    if not counts_only:
        check_machine(settings)
    store, original = Store(settings.storage.root), paper.read(dataset)
    listed = replace(paper.device_list(dataset), inside=settings.census.inside)
    devices = original.counts.select(listed)
    nights = _assemble(store, layers, dataset, captures)
    compared = _compare(original, devices, nights, settings)
    best = reproduction.nearest(compared)
    told = [reproduction.counts_text(original, compared)]
    command.say(*told[0].split("\n"))
    outcomes: list[Outcome] = []
    for scores in () if counts_only else original.scores:
        experiment = _Experiment(f"{dataset}-{scores.label}", nights[best.assembly], devices)
        outcomes.append(experiment.outcome(store, layers, scores, best))
        told.append(reproduction.scores_text(original, outcomes[-1]))
        command.say(*told[-1].split("\n"))
    with store.write("reproductions", PartitionKey.of_dataset(dataset)) as staged:
        staged.write_text("reproduction.md", "\n".join(told))
        staged.write_json("reproduction.json", reproduction.to_json(original, compared, outcomes))
        staged.metadata = {"captures": captures, "nearest": best.reading, "counts_only": counts_only}
    command.say(f"reproduction: {store.open('reproductions', PartitionKey.of_dataset(dataset)).uri}/reproduction.md")


def _assemble(store: Store, layers: Sequence[str], dataset: str, captures: str) -> dict[Assembly, Partition]:
    """The flows of all captures as one night, assembled in every way; what is there already is taken as it is.

    Each way is a site of its own, so that no night takes up another's flows.
    """
    from iotid.capture import first_day
    from iotid.capture.splits.discovery import find_captures
    from iotid.studies.reproduction import ASSEMBLIES

    capture = settings_of(layers).capture
    day, found = first_day(captures, capture), find_captures([captures], capture.unreadable).captures
    there = {"files": len(found), "bytes": sum(each.file_bytes for each in found)}
    nights = {}
    for assembly in ASSEMBLIES:
        night = Night(f"{dataset}-{assembly.name}", day, captures)
        own = [*layers, *_set(assembly.overrides)]
        keys = PartitionKey.of_date(night.site, night.date)
        if _is_of(store, keys, captures, there, settings_of(own)):
            _log.info("%s: is there", store.uri("flows", keys))
        else:
            split = ["split-pcaps", "--captures", captures, *night.arguments]
            run_steps([split, ["assemble-flows", *night.arguments]], own)
        nights[assembly] = store.open("flows", keys)
    return nights


def _is_of(store: Store, keys: PartitionKey, captures: str, there: Mapping[str, int], settings: Settings) -> bool:
    """Whether the night's flows are of these captures, as many and as large as they are now, and of these settings."""
    if not store.exists("flows", keys):
        return False
    told = store.open("flows", keys).metadata
    splits = told["inputs"].get("splits", {})
    return bool(
        splits.get("inputs", {}).get("captures") == captures
        and all(splits.get(name) == number for name, number in there.items())
        and told["settings_hash"] == settings_hash(settings.capture, settings.flow)
        and (told["schema_version"], told["code_version"]) == (schemas.FLOWS.version, iotid.__version__)
    )


def _compare(
    original: Original, devices: DeviceList, nights: Mapping[Assembly, Partition], settings: Settings
) -> list[Comparison]:
    """Every reading's flows beside the paper's.

    Raises:
        LabelError: no device of the list has a flow.
    """
    from iotid.dataset import count_flows
    from iotid.flows import partition_files
    from iotid.studies import reproduction

    asked = settings.dataset.model_dump() | {"label": "name", "unlisted": "drop"}
    asked["protocols"] = sorted({number for numbers in reproduction.PROTOCOLS.values() for number in numbers})
    every = type(settings.dataset).model_validate(asked)
    counted = {each: count_flows(partition_files([night]), devices, every) for each, night in nights.items()}
    if not any(counted.values()):
        raise LabelError(
            f"{devices.source}: fits none of the flows of --captures; give a folder with {original.captures}"
        )
    return reproduction.compare(original.counts, devices.labels("name"), counted)


@dataclass(frozen=True)
class _Experiment:
    """A dataset, the training on it and the report, all under one name."""

    name: str
    night: Partition
    devices: DeviceList

    def outcome(self, store: Store, layers: Sequence[str], scores: Scores, reading: Comparison) -> Outcome:
        """The report, by the steps that are still to be done."""
        from iotid.evaluation import Report
        from iotid.studies.reproduction import Outcome

        own = [*layers, *_set([*reading.overrides, f"dataset.label={scores.label}"])]
        settings = settings_of(own)
        if not self._is_written(store, settings):
            run_steps([self._write_dataset(store)], own)
        if not self._is_scored(store, settings):
            run_steps([[step, "--dataset", self.name] for step in ("train", "evaluate")], own)
        page = store.open("reports", PartitionKey.of_dataset(self.name))
        return Outcome(scores, store.read_json(page, "report.json", Report), f"{page.uri}/report.html")

    def _write_dataset(self, store: Store) -> list[str]:
        """The command line; the device list is written down for it, as the paper's devices are not all of the list."""
        path = Path(store.working_folder("runs", self.name)) / "devices.yaml"
        entries = [device.model_dump(mode="json", exclude_defaults=True) for device in self.devices.devices]
        path.write_text(yaml.safe_dump({"devices": entries}, sort_keys=False), encoding="utf-8")
        keys = ["--site", self.night.key["site"], "--date", self.night.key["capture_date"]]
        return ["write-dataset", *keys, "--labels", str(path), "--dataset", self.name]

    def _is_written(self, store: Store, settings: Settings) -> bool:
        from iotid.dataset import dataset_hash

        keys = PartitionKey.named(self.name)
        wanted = dataset_hash([self.night], self.devices, settings.dataset, settings.flow)
        return store.exists("datasets", keys) and store.open("datasets", keys).metadata["hash"] == wanted

    def _is_scored(self, store: Store, settings: Settings) -> bool:
        """Whether there is a report on this dataset, of a model trained on it in this way, and of all rivals."""
        from iotid.evaluation import Report
        from iotid.training import made_by

        keys = PartitionKey.of_dataset(self.name)
        if not store.exists("reports", keys):
            return False
        page, dataset = store.open("reports", keys), store.open("datasets", PartitionKey.named(self.name))
        recipe = made_by(settings.model, settings.training, dataset.metadata["hash"])
        systems = store.read_json(page, "report.json", Report)["systems"]
        return page.metadata.get("made_by") == recipe and set(settings.evaluation.baselines) <= set(systems)


def _set(overrides: Sequence[str]) -> list[str]:
    return [part for text in overrides for part in ("--set", text)]
