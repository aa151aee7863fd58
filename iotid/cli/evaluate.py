"""Step 5: score the challenger, the champion and the baselines on a dataset's test split."""

from iotid.cli import command, options
from iotid.config import Settings, with_values


@command.step("evaluate")
@options.dataset
@options.baselines
def main(settings: Settings, dataset: str, baselines: str | None = None) -> None:
    """Score the challenger, the champion and the baselines on a dataset's test split.

    Reads the dataset and the registry. Writes a report: numbers as JSON, every answer, figures, a page. A champion of
    another schema version is reported and left out.
    """
    from iotid.evaluation import evaluate_challenger
    from iotid.partitions import Store
    from iotid.tracking import Registry

    names = settings.evaluation.baselines if baselines is None else tuple(filter(None, baselines.split(",")))
    asked = with_values(settings.evaluation, baselines=names)
    registry = Registry(settings.tracking, settings.storage.root)
    evaluation = evaluate_challenger(Store(settings.storage.root), registry, dataset, asked, settings.census)
    command.print_lines(*(f"report: {sentence}" for sentence in evaluation.sentences))
    command.print_lines(f"report: {evaluation.report.uri}/report.html")
