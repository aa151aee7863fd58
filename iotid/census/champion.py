"""The model version that a census asks, or why there is none."""

from __future__ import annotations

import re

from iotid.errors import NoModelError
from iotid.tracking.versions import CHALLENGER, CHAMPION, ModelVersion, Registry


def find_champion(registry: Registry) -> tuple[ModelVersion | None, str]:
    """The champion; or None, and why there is none.

    Raises:
        ServerError: the registry cannot be reached, so whether there is a champion is not known.
    """
    try:
        return champion_of(registry), ""
    except NoModelError as why:
        return None, str(why)


def champion_of(registry: Registry) -> ModelVersion:
    """The model version that identifies devices.

    Raises:
        NoModelError: there is none; the message says whether promotion refused a challenger.
    """
    try:
        return registry.version_of(CHAMPION)
    except NoModelError:
        challenger = registry.find_version(CHALLENGER)
        tags = challenger.tags if challenger is not None else {}
        sentences = re.split(r"(?=\b(?:Passed|Refused): )", tags.get("decision", ""))
        refused = " ".join(each.strip() for each in sentences if each.startswith("Refused"))
        if not refused or challenger is None:
            raise
        raise NoModelError(
            f"census: there is no champion yet, because promotion refused version {challenger.number}. {refused} Learn "
            "from more captures, or change the rule named in brackets (conf/promotion.yaml); then iotid promote "
            f"--dataset {tags.get('decided_on', 'NAME')}, and the census again"
        ) from None
