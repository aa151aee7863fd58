"""The descriptions that MLflow's pages show."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from iotid import __version__
from iotid.tracking import ModelVersion, Registry, notes
from iotid.tracking.client import NOTE
from iotid.tracking.notes import with_section
from iotid.tracking.runs import Description, Run, start_run


def test_with_section__replaces_its_own_and_keeps_what_persons_wrote() -> None:
    first = with_section("Looked at by Ada.", "Training", "on `lab`")
    both = with_section(first, "Evaluation", "90 %")
    again = with_section(both, "Training", "on `home`")
    assert again == "Looked at by Ada.\n\n### Training\n\non `home`\n\n### Evaluation\n\n90 %\n"
    assert with_section(again, "Training", "on `home`") == again
    assert with_section(None, "Training", "on `lab`") == "### Training\n\non `lab`\n"


def test_experiment_run_model_and_version__say_what_they_are(
    embedded: Registry, run: Run, version: ModelVersion
) -> None:
    client: Any = embedded.connect()
    assert client.get_experiment(embedded.experiment_id(client)).tags[NOTE] == notes.EXPERIMENT
    assert client.get_registered_model("iotid").description == notes.MODEL
    described = client.get_model_version("iotid", str(version.number)).description
    assert "trained on dataset `lab`" in described
    assert "Reads inter_arrival, direction of the first 4 packets of flows (TCP, UDP)." in described
    embedded.add_note(version.number, "Promotion", notes.of_decision(version.number, False, ["Refused: too low"]))
    described = client.get_model_version("iotid", str(version.number)).description
    assert described.endswith("was refused:\n\n* Refused: too low\n")
    assert described.startswith("### Training")


def test_experiment_and_model__keep_the_descriptions_that_persons_wrote(embedded: Registry) -> None:
    tracking = embedded.tracking.model_copy(update={"experiment": "own", "model": "own"})
    registry, client = Registry(tracking, embedded.storage_root), embedded.connect()
    own = client.create_experiment("own", tags={NOTE: "Ada's"})
    assert registry.experiment_id(client) == own
    client.create_registered_model("own", description="Ada's")
    registry.create_model(client)
    assert client.get_experiment(own).tags[NOTE] == client.get_registered_model("own").description == "Ada's"
    client.update_registered_model("own", "")
    registry.create_model(client)
    assert client.get_registered_model("own").description == notes.MODEL


def test_run__has_its_origin_description_and_parameters(embedded: Registry) -> None:
    description = Description("Training", "on `lab`", {"dataset.label": "model", "dataset.protocols": [6, 17]})
    run = start_run(embedded, "described", [], {"step": "train"}, description)
    run.add_note("Evaluation", "90 %")
    run.log_params({"leakage": 0.25, "dataset.label": "type"})
    stored = embedded.connect().get_run(run.id)
    assert stored.data.tags["mlflow.source.name"] == f"iotid {__version__}"
    assert stored.data.tags["mlflow.source.type"] == "JOB"
    head = subprocess.run(["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert stored.data.tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    assert stored.data.tags["mlflow.user"]
    assert stored.data.tags[NOTE] == "### Training\n\non `lab`\n\n### Evaluation\n\n90 %\n"
    assert stored.data.params == {"dataset.label": "model", "dataset.protocols": "[6, 17]", "leakage": "0.25"}
    run.end()
