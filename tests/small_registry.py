"""Registries, and versions in them with no model behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iotid import config
from iotid.tracking import CHALLENGER, Registry
from iotid.tracking.runs import start_run


@pytest.fixture(scope="session")
def with_versions() -> Callable[[Registry, str, int], Registry]:
    """The same records, and so many versions of a model of that name in them; the last one is the challenger."""

    def make(registry: Registry, name: str, versions: int) -> Registry:
        registry = Registry(registry.tracking.model_copy(update={"model": name}), registry.storage_root)
        client, run = registry.connect(), start_run(registry, name, [], {})
        registry.create_model(client)
        for _ in range(versions):
            version = client.create_model_version(name, client.get_run(run.id).info.artifact_uri, run.id)
            client.set_registered_model_alias(name, CHALLENGER, version.version)
        return registry

    return make


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tracking_server: tuple[str, Any]) -> Registry:
    """An MLflow server over HTTP with PostgreSQL behind it, all on the loopback."""
    tracking = config.Tracking(uri=tracking_server[0], experiment="served", model="iotid")
    return Registry(tracking, str(tmp_path_factory.mktemp("served") / "store"))
