"""Step 5: score the challenger, the champion and the rivals on a dataset's test part."""

from iotid import command
from iotid.config import Settings


@command.step("evaluate")
@command.dataset
@command.baselines
def main(settings: Settings, dataset: str, baselines: str | None) -> None:
    """Score the challenger beside the champion and the rivals on a dataset's test part.

    Reads the dataset and the registry. Writes a report: numbers as JSON, every answer, figures, a page to read.
    """
    import json
    from tempfile import TemporaryDirectory

    from iotid.evaluation import census_nights, evaluate, flat, verdicts, write_report
    from iotid.model import Predictor
    from iotid.registry import CHALLENGER, CHAMPION, Registry
    from iotid.storage import Store

    asked = settings.evaluation
    if baselines is not None:
        asked = asked.model_copy(update={"baselines": tuple(baselines.split(",")) if baselines else ()})
    store = Store(settings.storage.root)
    source = store.open("datasets", {"name": dataset})
    registry = Registry(settings.tracking, settings.storage.root)
    challenger, champion = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    versions = {CHALLENGER: challenger}
    if champion is not None and champion != challenger:
        versions[CHAMPION] = champion
    with TemporaryDirectory() as work, store.write("reports", {"dataset": dataset}) as staged:
        models = {alias: Predictor.load(registry.bundle(alias, f"{work}/{alias}")) for alias in versions}
        report, answers = evaluate(source, models, asked, census_nights(store))
        history = registry.artifact(challenger, "training/history.json", work)
        page = write_report(report, f"{work}/report", answers=answers, history=json.loads(history.read_text()))
        registry.log_artifacts(registry.run_of(challenger), page.parent, "report")
        registry.log_metrics(registry.run_of(challenger), flat(report))
        staged.add_folder(page.parent)
        sentences = [sentence for sentence, _ in verdicts(report)]
        staged.metadata = {"versions": versions, "dataset_hash": source.metadata["hash"], "summary": sentences}
        staged.metadata["made_by"] = registry.tags(challenger).get("made_by")
    written = store.open("reports", {"dataset": dataset})
    for sentence in sentences:
        command.say(f"report: {sentence}")
    command.say(f"report: {written.uri}/report.html")


if __name__ == "__main__":
    command.run_job(main)
