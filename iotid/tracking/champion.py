"""The champion, the model version that serves: promotion and rollback, changed under a lock."""

from __future__ import annotations

import re

from iotid.errors import DataError, StaleError, UserError, short_repr
from iotid.tracking.lock import Lock
from iotid.tracking.versions import CHAMPION, ModelVersion, Registry

_FORMER = "former_champion"


def promote(registry: Registry, number: int, *, replaces: int | None) -> None:
    """Make version ``number`` the champion. Idempotent.

    ``replaces``: the champion that it was compared with, or None; stored in the version's tag ``former_champion``.

    Raises:
        StaleError: the champion changed meanwhile; no alias was changed.
    """
    with Lock(registry).held():
        present = registry.find_version(CHAMPION)
        if present and present.number == number and former_champion(registry, present) == replaces:
            return  # an interrupted promotion already set the alias
        check_champion(registry, replaces, "run iotid evaluate, then iotid promote")
        if replaces is not None:
            registry.set_tag(number, _FORMER, str(replaces))
        set_champion(registry, number)


def rollback(registry: Registry) -> tuple[int, int]:
    """Restore the previous champion. Returns (version replaced, version restored).

    Raises:
        UserError: there is no champion, or it was the first.
        StaleError: the champion changed meanwhile; no alias was changed.
    """
    version = registry.version_of(CHAMPION)
    former = former_champion(registry, version)
    if former is None:
        raise UserError(
            f"registry {registry.uri}: version {version.number} was the first champion; there is no earlier version to "
            "restore: promote another version instead"
        )
    with Lock(registry).held():
        check_champion(registry, version.number, "run iotid rollback again")
        set_champion(registry, former)
        registry.set_tag(version.number, "rolled_back_to", str(former))
        registry.add_note(version.number, "Rollback", f"Replaced by version {former}, the former champion.")
    return version.number, former


def former_champion(registry: Registry, version: ModelVersion) -> int | None:
    """The champion that the version replaced, if any.

    Raises:
        DataError: the tag is not a version number.
    """
    former = version.tags.get(_FORMER)
    if former is not None and not re.fullmatch("[0-9]{1,18}", former):
        raise DataError(
            f"registry {registry.uri}: tag {_FORMER} of version {version.number} must be a version number, got "
            f"{short_repr(former)}; set it to the previous champion, or remove it"
        )
    return None if former is None else int(former)


def set_champion(registry: Registry, number: int) -> None:
    """Set the alias; the lock must be held."""
    registry.call(lambda client: client.set_registered_model_alias(registry.tracking.model, CHAMPION, str(number)))
    check_champion(registry, number, "run the command again")


def check_champion(registry: Registry, number: int | None, remedy: str) -> None:
    """Raise a StaleError, with this remedy, unless this version (None: no version) is the champion."""
    present = registry.find_version(CHAMPION)
    found = present.number if present else None
    if found != number:
        expected, actual = ("no champion" if n is None else f"champion version {n}" for n in (number, found))
        raise StaleError(
            f"registry {registry.uri}: the champion changed meanwhile: the comparison used {expected}, now there is "
            f"{actual}; no alias was changed; {remedy}"
        )
