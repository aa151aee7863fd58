"""The champion, the version that serves: promoted, rolled back, and never moved by two processes at the same time."""

from __future__ import annotations

import re

from iotid.errors import DataError, StaleError, UserError, short_repr
from iotid.tracking.lock import Lock
from iotid.tracking.versions import CHAMPION, ModelVersion, Registry

_FORMER = "former_champion"


def promote(registry: Registry, number: int, *, replaces: int | None) -> None:
    """Make version ``number`` the champion instead of ``over``, the champion that it was compared with, or None.

    ``over`` is stored in the version's tag ``former_champion``. Doing it again changes nothing.

    Raises:
        StaleError: the champion is another one by now; nothing was moved.
    """
    with Lock(registry).held():
        present = registry.find_version(CHAMPION)
        if present and present.number == number and former_champion(registry, present) == replaces:
            return  # moved by a promotion that was cut off
        check_champion(registry, replaces)
        if replaces is not None:
            registry.set_tag(number, _FORMER, str(replaces))
        set_champion(registry, number)


def rollback(registry: Registry) -> tuple[int, int]:
    """Make the champion before the present one the champion again; the numbers of the present one, and of that.

    Raises:
        UserError: there is no champion, or it was the first.
        StaleError: the champion is another one by now; nothing was moved.
    """
    version = registry.version_of(CHAMPION)
    former = former_champion(registry, version)
    if former is None:
        raise UserError(
            f"registry {registry.uri}: version {version.number} was the first champion; there is none to go back to: "
            "promote another version instead"
        )
    with Lock(registry).held():
        check_champion(registry, version.number)
        set_champion(registry, former)
        registry.set_tag(version.number, "rolled_back_to", str(former))
    return version.number, former


def former_champion(registry: Registry, version: ModelVersion) -> int | None:
    """The champion that the version replaced, if any.

    Raises:
        DataError: the tag is no version's number.
    """
    former = version.tags.get(_FORMER)
    if former is not None and not re.fullmatch("[0-9]{1,18}", former):
        raise DataError(
            f"registry {registry.uri}: tag {_FORMER} of version {version.number} must be a version's number, got "
            f"{short_repr(former)}; set it to the champion before, or remove it"
        )
    return None if former is None else int(former)


def set_champion(registry: Registry, number: int) -> None:
    """Move the alias; the lock must be held."""
    registry.call(lambda client: client.set_registered_model_alias(registry.tracking.model, CHAMPION, str(number)))
    check_champion(registry, number)


def check_champion(registry: Registry, number: int | None) -> None:
    """Raise a StaleError unless this version, or none, is the champion."""
    present = registry.find_version(CHAMPION)
    found = present.number if present else None
    if found != number:
        raise StaleError(
            f"registry {registry.uri}: the champion has changed meanwhile: this was decided against version {number}, "
            f"but it is version {found} now; nothing was moved; run iotid evaluate, then decide again"
        )
