"""Step 4: train the ensemble on a dataset and register it as the challenger."""

import os

from iotid.cli import command
from iotid.config import Settings


@command.step("train")
@command.dataset
def main(settings: Settings, dataset: str) -> None:
    """Train the adaptive ensemble on a dataset with several ranks, and register it as the challenger.

    Reads the dataset. Writes a run with its metrics and a model version to MLflow; while the tracking server is away it
    trains all the same. Killed and started again, it goes on from its last checkpoint. Started by torchrun, each
    process is one rank; else Spark starts the ranks.
    """
    from pyarrow import dataset as tables

    from iotid import spark_session
    from iotid.evaluation.figures import learning_curves
    from iotid.partitions import PartitionKey, Store
    from iotid.tracking.registry import Registry
    from iotid.training import made_by, train_on_ranks

    store = Store(settings.storage.root)
    source = store.open("datasets", PartitionKey.named(dataset))
    recipe = made_by(settings.model, settings.training, source.metadata["hash"])
    folder = store.working_folder("runs", dataset, recipe)
    if os.environ.get("RANK", "0") != "0":
        train_on_ranks(None, settings, source.uri, folder)
        return
    spark = None if "RANK" in os.environ else spark_session(settings.spark, "iotid train")
    registry = Registry(settings.tracking, settings.storage.root)
    tags = {"dataset": dataset, "dataset_hash": source.metadata["hash"], "dataset_uri": source.uri, "made_by": recipe}

    sections = [settings.model, settings.training, settings.flow]
    kept = f"the trained model is kept in {folder}; this command, given again, registers it without training"
    with registry.run(f"{dataset}-{recipe}", sections, tags, (dataset, source), if_away=kept) as run:
        result = train_on_ranks(spark, settings, source.uri, folder, run.epoch_logger)
        registry.log_history(run.id, result["history"])
        learning_curves(result["history"], folder / "learning_curves.png", f"{dataset}-{recipe}")
        for name in ("history.json", "learning_curves.png"):
            registry.log_artifacts(run.id, folder / name, "training")
        nights = [tables.dataset(store.open("flows", PartitionKey(keys)).uri) for keys in source.metadata["nights"]]
        version = registry.log_model(run.id, folder, tables.dataset(nights).head(5))
    command.say(
        f"model: version {version}, best epoch {result['best_epoch']} of {len(result['history'])}, "
        f"validation macro F1 {100 * result['best_macro_f1']:.2f} % -> {registry.uri} run {run.id}"
    )
