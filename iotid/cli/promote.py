"""Step 6: a written policy compares challenger and champion; the registry's alias moves, or does not."""

from iotid.cli import command
from iotid.config import Settings


@command.step("promote")
@command.dataset
def main(settings: Settings, dataset: str) -> None:
    """Make the challenger the champion if conf/promotion.yaml allows it, and say why or why not.

    Reads the report on a dataset. Writes the decision, with the report on both, and moves the registry's alias
    `champion`, unless that was moved since they were compared.
    """
    from iotid.errors import PartitionError
    from iotid.evaluation import Report, system_report
    from iotid.partitions import PartitionKey, Store
    from iotid.promotion import decide
    from iotid.tracking.registry import CHALLENGER, CHAMPION, Registry

    store = Store(settings.storage.root)
    registry = Registry(settings.tracking, settings.storage.root)
    page = store.open("reports", PartitionKey.of_dataset(dataset))
    report, versions = store.read_json(page, "report.json", Report), page.metadata["versions"]
    challenger, champion = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    keys = PartitionKey.of_dataset(dataset, challenger)
    if challenger == champion:
        champion = registry.former_champion(challenger)
        of_this = registry.tags(challenger).get("decided_on") == dataset and champion == versions.get(CHAMPION)
        if not of_this or (store.exists("decisions", keys) and store.open("decisions", keys).metadata["promoted"]):
            command.say(f"promotion: version {challenger} is the champion already")
            return  # else a promotion was cut off when the champion had moved, and the decision is still to be kept
    if (challenger, champion) != (versions.get(CHALLENGER), versions.get(CHAMPION)):
        raise PartitionError(
            f"reports: {page.uri} is on versions {versions}, but {CHALLENGER} is {challenger}, {CHAMPION} {champion}; "
            f"run iotid evaluate --dataset {dataset} first"
        )
    left_out = page.metadata.get("left_out", {})
    rival = system_report(report, CHAMPION) if CHAMPION in versions and CHAMPION not in left_out else None
    decision = decide(system_report(report, CHALLENGER), rival, settings.promotion)
    told = {"versions": versions, "left_out": left_out, "promoted": decision.promote, "reasons": decision.reasons}
    told["policy"] = settings.promotion.model_dump(mode="json")
    with store.write("decisions", keys) as staged:
        staged.metadata = told
        registry.set_tag(challenger, "decided_on", dataset)
        for name, content in (("decision.json", told), ("report.json", report)):
            staged.write_json(name, content)
            registry.log_json(registry.run_of(challenger), content, f"decision/{name}")
        if decision.promote:  # before the partition gets its name: there is none of a promotion that came too late
            registry.promote(challenger, over=champion)
        registry.set_tag(challenger, "decision", " ".join(decision.reasons))
    for reason in (*left_out.values(), *decision.reasons):
        command.say(f"promotion: {reason}")
    command.say(f"promotion: version {challenger} {'is now the champion' if decision.promote else 'stays challenger'}")
