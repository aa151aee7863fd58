"""A lock on moving the champion, held in the model registry itself.

MLflow can neither move an alias on condition nor lock, but keeps the names of registered models unique: the process
that registers one of a certain name holds the lock, and removes it afterwards.
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

EXPIRES_S = 300.0  # more than the few calls under the lock last, each of which may wait for the server
_POLL_S = 0.2


@dataclass(frozen=True)
class Lock:
    """The lock of one registered model."""

    registry: Registry

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other process moves the champion within this block.

        A lock that one holder has kept for ``EXPIRES_S`` is removed: that process has died.
        """
        own = uuid4().hex
        holder, since = None, time.monotonic()
        while (found := self.claim(own)) != own:
            if found != holder:
                holder, since = found, time.monotonic()
            if found is not None and time.monotonic() - since > EXPIRES_S:
                _log.warning("promotion: the process that held the lock for %.0f s has died; going on", EXPIRES_S)
                self.release(found)
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            with suppress(UserError):  # the next process removes it when it has expired
                self.release(own)

    def claim(self, own: str) -> str | None:
        """Take the lock for ``own`` if it is free; its holder now, or None if it was released at this moment."""
        return self.registry.call(lambda client: self._claim(client, own))

    def holder(self) -> str | None:
        """Who holds the lock, or None."""
        return self.registry.call(self._holder)

    def release(self, holder: str) -> None:
        """Remove the lock if ``holder`` holds it."""

        def release(client: Any) -> None:
            if self._holder(client) == holder:
                client.delete_registered_model(self._name)

        self.registry.call(release)

    def _claim(self, client: Any, own: str) -> str | None:
        try:
            note = f"held while the alias {CHAMPION} of {self.registry.tracking.model} is moved, and removed afterwards"
            client.create_registered_model(self._name, {"holder": own}, note)
            return own
        except mlflow().exceptions.MlflowException as fault:
            if fault.error_code == "RESOURCE_ALREADY_EXISTS":
                return self._holder(client)
            if is_absent(fault):  # the embedded store looks up the one that was in the way
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
