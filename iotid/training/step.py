"""The step `train`: trains the ensemble on a dataset, logs the run and registers the model as the challenger."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iotid import config
from iotid.evaluation.figures import learning_curves
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas.metadata import Datasets
from iotid.tracking import notes
from iotid.tracking.runs import Description, run_on_dataset
from iotid.tracking.versions import ModelVersion, Registry
from iotid.training.launch import train_on_ranks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Trained:
    """``result``: a ``FitResult`` as a dict; ``tracking_uri``: the server that has the version and its run."""

    version: ModelVersion
    result: Mapping[str, Any]
    tracking_uri: str


def fingerprint(model: config.Model, training: config.Training, dataset_hash: str) -> str:
    """Identifies everything that a trained model depends on."""
    return config.settings_hash(model, training, extra={"dataset": dataset_hash})


def train(
    spark: SparkSession | None, store: Store, dataset: Partition[Datasets], settings: config.Settings
) -> Trained | None:
    """Train on ``dataset``, a partition of ``datasets``, and register the model. Returns None on ranks other than 0.

    If the tracking server is unreachable, training continues and is logged afterwards. A killed training resumes from
    its last checkpoint when started again. ``spark`` starts the ranks; under torchrun it is not used.

    Raises:
        TrainingError: a rank failed.
        ServerError: the tracking server stayed unreachable; the trained model is on this machine.
    """
    name, dataset_hash = dataset.key["name"], dataset.metadata["hash"]
    trained_by = fingerprint(settings.model, settings.training, dataset_hash)
    folder = store.working_folder("runs", name, trained_by)
    if os.environ.get("RANK", "0") != "0":
        train_on_ranks(None, settings, dataset.uri, folder)
        return None
    registry = Registry(settings.tracking, settings.storage.root)
    written_with = dataset.metadata["settings"]["dataset"]
    tags = {"step": "train", "dataset": name, "dataset_hash": dataset_hash, "dataset_uri": dataset.uri}
    tags |= {"dataset_summary": dataset.metadata["summary"], "made_by": trained_by}
    tags |= {"label": written_with["label"], "split_protocol": written_with["protocol"]}
    params = {f"dataset.{key}": value for key, value in written_with.items()}
    description = Description("Training", notes.of_training(tags), params)
    sections = [settings.model, settings.training, settings.flow]
    if_unreachable = f"the trained model is in {folder}; run this command again to register it without training"
    with run_on_dataset(
        registry,
        f"{name}-{trained_by}",
        sections,
        tags,
        (name, dataset),
        description,
        if_unreachable=if_unreachable,
    ) as run:
        result = train_on_ranks(spark, settings, dataset.uri, folder, run.epoch_logger)
        run.log_history(result["history"])
        learning_curves(result["history"], folder / "learning_curves.png", f"{name}-{trained_by}")
        for file in ("history.json", "learning_curves.png"):
            run.log_artifacts(folder / file, "training")
        return Trained(registry.register(run, folder, _example(store, dataset)), result, registry.uri)


def _example(store: Store, dataset: Partition[Datasets]) -> Any:
    """A few rows of the dataset's source flows."""
    from pyarrow import dataset as tables

    keys = map(PartitionKey, dataset.metadata["nights"])
    return tables.dataset([tables.dataset(store.open("flows", key).uri) for key in keys]).head(5)
