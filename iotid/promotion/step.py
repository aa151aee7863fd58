"""The step `promote`: decides by the policy on a report, stores the decision and sets the champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iotid import config
from iotid.errors import PartitionError
from iotid.evaluation.schema import Report, system_report
from iotid.partitions import PartitionKey, Store
from iotid.promotion.policy import decide
from iotid.tracking import CHALLENGER, CHAMPION, champion, notes
from iotid.tracking.runs import Run
from iotid.tracking.versions import ModelVersion, Registry


@dataclass(frozen=True)
class Promotion:
    """The outcome for ``version``; ``reasons`` are sentences, empty if it was already the champion."""

    version: int
    promoted: bool
    reasons: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """The reasons, then the outcome."""
        if not self.reasons:
            return (f"version {self.version} is the champion already",)
        return (
            *self.reasons,
            f"version {self.version} {'is now the champion' if self.promoted else 'stays challenger'}",
        )


def promote(store: Store, registry: Registry, dataset: str, policy: config.Promotion) -> Promotion:
    """Make the challenger the champion if the policy allows it on the report of ``dataset``.

    Writes the partition of ``decisions``, copies it to the challenger's run, and tags the version. Idempotent: a second
    call changes nothing, or finishes an interrupted promotion.

    Raises:
        PartitionError: there is no report, or it is on other versions than the present challenger and champion.
        StaleError: the champion changed meanwhile; nothing was stored and no alias was changed.
    """
    partition = store.open("reports", PartitionKey.of_dataset(dataset))
    report, versions = store.read_json(partition, "report.json", Report), partition.metadata["versions"]
    challenger, present = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    replaces = present.number if present else None
    key = PartitionKey.of_dataset(dataset, challenger.number)
    if challenger.number == replaces:
        replaces = champion.former_champion(registry, challenger)
        is_of_this_report = challenger.tags.get("decided_on") == dataset and replaces == versions.get(CHAMPION)
        if not is_of_this_report or (
            store.exists("decisions", key) and store.open("decisions", key).metadata["promoted"]
        ):
            return Promotion(challenger.number, promoted=True)
        # else a promotion was interrupted after it set the champion, before it stored the decision
    if (challenger.number, replaces) != (versions.get(CHALLENGER), versions.get(CHAMPION)):
        raise PartitionError(
            f"reports: {partition.uri} is on versions {versions}, but {CHALLENGER} is {challenger.number}, {CHAMPION} "
            f"{replaces}; run iotid evaluate --dataset {dataset} first"
        )
    left_out = partition.metadata.get("left_out", {})
    is_compared = CHAMPION in versions and CHAMPION not in left_out
    champion_report = system_report(report, CHAMPION) if is_compared else None
    decision = decide(system_report(report, CHALLENGER), champion_report, policy)
    metadata = {"versions": versions, "left_out": left_out, "promoted": decision.promote, "reasons": decision.reasons}
    metadata["policy"] = policy.model_dump(mode="json")
    _write_decision(store, registry, challenger, key, metadata, report, replaces)
    return Promotion(challenger.number, decision.promote, (*left_out.values(), *decision.reasons))


def _write_decision(
    store: Store,
    registry: Registry,
    challenger: ModelVersion,
    key: PartitionKey,
    metadata: dict[str, Any],
    report: Report,
    replaces: int | None,
) -> None:
    """Write the decision and set the champion; do neither if the champion is no longer ``replaces``."""
    run = Run.of(registry, challenger.run_id)
    with store.write("decisions", key) as staged:
        staged.metadata = metadata
        registry.set_tag(challenger.number, "decided_on", key["dataset"])
        for name, content in (("decision.json", metadata), ("report.json", report)):
            staged.write_json(name, content)
            run.log_json(content, f"decision/{name}")
        if metadata["promoted"]:  # before the partition is committed, so that a StaleError leaves none
            champion.promote(registry, challenger.number, replaces=replaces)
        registry.set_tag(challenger.number, "decision", " ".join(metadata["reasons"]))
        note = notes.of_decision(challenger.number, metadata["promoted"], metadata["reasons"])
        run.add_note("Promotion", note)
        registry.add_note(challenger.number, "Promotion", note)
