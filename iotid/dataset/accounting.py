"""Accounts for the input flows of a dataset: each is kept, or left out for a named reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iotid.errors import AccountingError, LabelError

log = logging.getLogger(__name__)

_SHOWN = 5
_NAMED = 20


@dataclass
class FlowAccounting:
    """Numbers of flows. ``labelled``: by label, of labels not dropped; ``dropped``: dropped label -> flows and reason;
    ``continued``: flows that a later partition continues.
    """

    flows_in: int
    continued: int
    other_protocols: int
    unlisted: int
    conflicts: int
    labelled: dict[str, int]
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise an AccountingError unless the counts add up to the flows in the partitions' metadata."""
        found = self.continued + self.other_protocols + self.unlisted + self.conflicts + sum(self.labelled.values())
        if found != self.flows_in:
            raise AccountingError(
                f"write-dataset: the partitions' metadata report {self.flows_in:,} flows, {found:,} were read; files "
                "are missing or foreign; assemble the flows of these capture dates again"
            )

    def drop(self, label: str, reason: str) -> None:
        """Leave a label out of the dataset."""
        flows = self.labelled.pop(label)
        self.dropped[label] = {"flows": flows, "reason": reason}
        log.info("label %s is left out with its %s flows: %s", label, f"{flows:,}", reason)

    def drop_rare(self, min_flows: int, source: str) -> None:
        """Drop the labels with fewer than ``min_flows`` flows.

        Raises:
            LabelError: fewer than two labels are left.
        """
        for label, flows in sorted(self.labelled.items()):
            if flows < min_flows:
                self.drop(label, f"fewer than dataset.min_flows={min_flows} flows")
        self.check_classes(source)

    def check_classes(self, source: str) -> None:
        """Raise a LabelError if fewer than two labels are left."""
        if len(self.labelled) < 2:
            all_labels = {**self.labelled, **{label: dropped["flows"] for label, dropped in self.dropped.items()}}
            first = sorted(all_labels.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
            counts = ", ".join(f"{label}: {flows:,} flows" for label, flows in first)
            raise LabelError(
                f"{source}: {len(self.labelled)} of {len(all_labels)} labels can be learned, at least 2 are needed "
                f"({counts}); list more devices, give more captures, or lower dataset.min_flows"
            )

    def to_json(self) -> dict[str, int]:
        """The number of input flows, and six counts that add up to it."""
        return {
            "in": self.flows_in,
            "kept": sum(self.labelled.values()),
            "dropped": sum(dropped["flows"] for dropped in self.dropped.values()),
            "unlisted": self.unlisted,
            "conflicts": self.conflicts,
            "other_protocols": self.other_protocols,
            "continued": self.continued,
        }


def coverage(without_flows: Sequence[str], devices: int, hosts: Mapping[str, int]) -> Iterator[str]:
    """Sentences on the coverage of a list of ``devices`` devices.

    ``without_flows``: names of devices without a flow; ``hosts``: unlisted host -> flows.
    """
    if without_flows:
        more = f" and {len(without_flows) - _NAMED} more" if len(without_flows) > _NAMED else ""
        named = ", ".join(without_flows[:_NAMED])
        yield f"devices without a flow: {len(without_flows):,} of {devices:,}: {named}{more}"
    if hosts:
        yield "busiest hosts on no list: " + ", ".join(f"{host} ({flows:,} flows)" for host, flows in hosts.items())
