"""Step 6: a written policy compares challenger and champion; the registry's alias moves, or does not."""

from iotid import command
from iotid.config import Settings


@command.step("promote")
@command.dataset
def main(settings: Settings, dataset: str) -> None:
    """Make the challenger the champion if conf/promotion.yaml allows it, and say why or why not.

    Reads the report on a dataset. Writes the decision, and moves the registry's alias `champion`.
    """
    from iotid.errors import PartitionError
    from iotid.evaluation import decide, system_report
    from iotid.registry import CHALLENGER, CHAMPION, Registry
    from iotid.storage import Store

    store = Store(settings.storage.root)
    registry = Registry(settings.tracking, settings.storage.root)
    page = store.open("reports", {"dataset": dataset})
    report, versions = store.read_json(page, "report.json"), page.metadata["versions"]
    challenger, champion = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    if challenger == champion:
        command.say(f"promotion: version {challenger} is the champion already")
        return
    if (challenger, champion) != (versions[CHALLENGER], versions.get(CHAMPION)):
        raise PartitionError(
            f"reports: {page.uri} is on versions {versions}, but {CHALLENGER} is {challenger}, {CHAMPION} {champion}; "
            f"run iotid evaluate --dataset {dataset} first"
        )
    rival = system_report(report, CHAMPION) if CHAMPION in versions else None
    decision = decide(system_report(report, CHALLENGER), rival, settings.promotion)
    with store.write("decisions", {"dataset": dataset}) as staged:
        staged.metadata = {"versions": versions, "promoted": decision.promote, "reasons": decision.reasons}
        staged.write_json("report.json", report)
    registry.set_tag(challenger, "decision", " ".join(decision.reasons))
    if decision.promote:
        registry.promote(challenger)
    for reason in decision.reasons:
        command.say(f"promotion: {reason}")
    command.say(f"promotion: version {challenger} {'is now the champion' if decision.promote else 'stays challenger'}")


if __name__ == "__main__":
    command.run_job(main)
