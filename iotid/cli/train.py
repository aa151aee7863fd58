"""Step 4: train the ensemble on a dataset and register it as the challenger."""

import os

from iotid.cli import command, options
from iotid.config import Settings


@command.step("train")
@options.dataset
def main(settings: Settings, dataset: str) -> None:
    """Train the adaptive ensemble on a dataset with several ranks, and register it as the challenger.

    Reads the dataset. Writes a run and a model version to MLflow; trains even if the tracking server is unreachable.
    Started again, it resumes from its last checkpoint. Under torchrun each process is a rank; else Spark starts them.
    """
    from iotid import spark_session
    from iotid.partitions import PartitionKey, Store
    from iotid.training import train

    store = Store(settings.storage.root)
    source = store.open("datasets", PartitionKey.named(dataset))
    spark = None if "RANK" in os.environ else spark_session(settings.spark, "iotid train")
    trained = train(spark, store, source, settings)
    if trained:
        version, result = trained.version, trained.result
        command.print_lines(
            f"model: version {version.number}, best epoch {result['best_epoch']} of {len(result['history'])}, "
            f"validation macro F1 {100 * result['best_macro_f1']:.2f} % -> {trained.tracking_uri} run {version.run_id}"
        )
