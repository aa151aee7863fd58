"""A lock on the champion alias, kept in the model registry itself.

MLflow has no locks and no conditional alias update, but the names of registered models are unique: the process that
registers a model with the lock's name holds the lock, and deletes that model afterwards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from iotid.errors import UserError
from iotid.tracking.client import is_absent, mlflow
from iotid.tracking.versions import CHAMPION, Registry

_log = logging.getLogger(__name__)

EXPIRES_S = 300.0  # longer than the few calls under the lock take, including retries
_POLL_S = 0.2


@dataclass(frozen=True)
class Lock:
    """The lock of one registered model."""

    registry: Registry

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within the block: no other process changes the champion.

        A lock that one process has held for ``EXPIRES_S`` is removed: that process has died.
        """
        own = uuid4().hex
        holder, since = None, time.monotonic()
        while (found := self.claim(own)) != own:
            if found != holder:
                holder, since = found, time.monotonic()
            if found is not None and time.monotonic() - since > EXPIRES_S:
                _log.warning("promotion: removing a lock held for more than %.0f s; its process has died", EXPIRES_S)
                self.release(found)
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            with suppress(UserError):  # it expires
                self.release(own)

    def claim(self, own: str) -> str | None:
        """Acquire the lock for ``own`` if it is free. Returns its holder, or None if it was just released."""
        return self.registry.call(lambda client: self._claim(client, own))

    def holder(self) -> str | None:
        """The id of the lock's holder, or None if it is free."""
        return self.registry.call(self._holder)

    def release(self, holder: str) -> None:
        """Remove the lock if ``holder`` holds it."""

        def release(client: Any) -> None:
            if self._holder(client) == holder:
                client.delete_registered_model(self._name)

        self.registry.call(release)

    def _claim(self, client: Any, own: str) -> str | None:
        try:
            note = f"lock on the alias {CHAMPION} of {self.registry.tracking.model}; deleted after use"
            client.create_registered_model(self._name, {"holder": own}, note)
            return own
        except mlflow().exceptions.MlflowException as fault:
            if fault.error_code == "RESOURCE_ALREADY_EXISTS":
                return self._holder(client)
            if is_absent(fault):  # the embedded store looks up the existing one, which was just deleted
                return None
            raise

    def _holder(self, client: Any) -> str | None:
        try:
            return str(client.get_registered_model(self._name).tags.get("holder"))
        except mlflow().exceptions.MlflowException as fault:
            if is_absent(fault):
                return None
            raise

    @property
    def _name(self) -> str:
        return f"{self.registry.tracking.model}.moving-{CHAMPION}"
