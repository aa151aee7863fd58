"""Step 5: score the challenger, the champion and the rivals on a dataset's test part."""

from iotid.cli import command
from iotid.config import Settings, changed


@command.step("evaluate")
@command.dataset
@command.baselines
def main(settings: Settings, dataset: str, baselines: str | None) -> None:
    """Score the challenger beside the champion and the rivals on a dataset's test part.

    Reads the dataset and the registry. Writes a report: numbers as JSON, every answer, figures, a page to read. A
    champion that another version of iotid made is named and left out.
    """
    from tempfile import TemporaryDirectory

    from iotid.errors import SchemaError
    from iotid.evaluation import census_nights, evaluate, flat, quality, read_history, verdicts, write_report
    from iotid.model import Predictor
    from iotid.partitions import PartitionKey, Store
    from iotid.tracking.registry import CHALLENGER, CHAMPION, Registry

    rivals = settings.evaluation.baselines if baselines is None else tuple(filter(None, baselines.split(",")))
    asked = changed(settings.evaluation, baselines=rivals)
    store = Store(settings.storage.root)
    source = store.open("datasets", PartitionKey.named(dataset))
    registry = Registry(settings.tracking, settings.storage.root)
    challenger, champion = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    versions = {CHALLENGER: challenger}
    if champion is not None and champion != challenger:
        versions[CHAMPION] = champion
    with TemporaryDirectory() as work, store.write("reports", PartitionKey.of_dataset(dataset)) as staged:
        models, left_out = {CHALLENGER: Predictor.load(registry.bundle(challenger, f"{work}/{CHALLENGER}"))}, {}
        if CHAMPION in versions:
            try:
                models[CHAMPION] = Predictor.load(registry.bundle(versions[CHAMPION], f"{work}/{CHAMPION}"))
            except SchemaError as fault:  # no census could load it either: what replaces it need not be better
                left_out[CHAMPION] = f"the champion, version {champion}, cannot be loaded and is left out: {fault}"
        report, answers = evaluate(source, models, asked, census_nights(store))
        history = registry.artifact(challenger, "training/history.json", work)
        page = write_report(report, f"{work}/report", answers=answers, history=read_history(history))
        registry.log_artifacts(registry.run_of(challenger), page.parent, "report")
        registry.log_metrics(registry.run_of(challenger), flat(report))
        reached = f"{quality(report['systems'][CHALLENGER])} on the test part of dataset {dataset}"
        registry.set_tag(challenger, "quality", reached)
        staged.add_folder(page.parent)
        sentences = [sentence for sentence, _ in verdicts(report)]
        staged.metadata = {"versions": versions, "left_out": left_out, "summary": sentences}
        staged.metadata["dataset_hash"] = source.metadata["hash"]
        staged.metadata["made_by"] = registry.tags(challenger).get("made_by")
    written = store.open("reports", PartitionKey.of_dataset(dataset))
    for sentence in (*left_out.values(), *sentences):
        command.say(f"report: {sentence}")
    command.say(f"report: {written.uri}/report.html")
