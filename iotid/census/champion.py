"""Finds the model that a census identifies devices with: the champion, or a bundle; and says why there is none."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from iotid.errors import DataError, InputError, NoModelError

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.bundle import Predictor
    from iotid.tracking.versions import ModelVersion, Registry


class FoundModel(NamedTuple):
    """A model and what it is called; or None, and why there is none."""

    predictor: Predictor | None
    title: str


def find_champion(registry: Registry) -> tuple[ModelVersion | None, str]:
    """The champion; or None, and why there is none.

    Raises:
        UserError: ``tracking.uri`` names a database that does not exist.
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
    from iotid.tracking.versions import CHALLENGER, CHAMPION

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


def load_model(tracking: config.Tracking, storage_root: str, folder: str | None, flow: config.Flow) -> FoundModel:
    """The model in ``folder``; else the champion, if there is a registry: ``tracking.uri`` names it, or it is in the
    local folder ``storage_root``.

    ``flow``: the settings with which the flows are assembled that it shall read.

    Raises:
        DataError: the model cannot be read, or cannot read such flows, or has no device model.
        ServerError: the registry cannot be reached.
    """
    if folder is not None:
        from iotid.model.bundle import DESCRIPTION

        if not (Path(folder) / DESCRIPTION).is_file():
            raise InputError(f"--model {folder}: is no bundle, it has no {DESCRIPTION}; give the folder of a model")
        return _loaded(Path(folder), f"model {folder}", flow)
    from iotid.tracking.versions import Registry

    registry = Registry(tracking, storage_root)
    if not registry.has_store():
        return FoundModel(None, "none is given; name a tracking store (--tracking) or a bundle (--model)")
    champion, why = find_champion(registry)
    if champion is None:
        return FoundModel(None, why)
    with TemporaryDirectory() as into:
        return _loaded(registry.bundle(champion.number, into), f"model version {champion.number}", flow)


def _loaded(folder: Path, title: str, flow: config.Flow) -> FoundModel:
    from iotid.census.answers import check_device_model
    from iotid.model.bundle import Predictor

    predictor = Predictor.load(folder)
    check_device_model(predictor, title)
    if misfit := predictor.encoding.misfit(flow.model_dump()):
        raise DataError(f"{title}: the capture {misfit}; read it with the settings of the model's training flows")
    return FoundModel(predictor, title)
