"""The model that devices are identified with: a bundle, the champion of a registry, or none and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.census.champion import find_champion, load_model
from iotid.config import Settings
from iotid.errors import DataError, InputError, ServerError, UserError
from iotid.schemas import FLOWS
from iotid.tracking import Registry
from iotid.tracking import client as tracking_client
from iotid.tracking.champion import set_champion
from iotid.tracking.runs import start_run

FLOW = config.load_settings().flow


def test_load_model__of_a_folder_has_its_name_and_refuses_what_cannot_be_used(
    settings: Settings, small_model: Path, model_folder: Callable[..., Path]
) -> None:
    given = settings.tracking, settings.storage.root
    found = load_model(*given, str(small_model), FLOW)
    assert found.predictor is not None
    assert (found.predictor.labels, found.title) == (("camera", "plug"), f"model {small_model}")
    misfit = config.with_values(FLOW, length="frame")
    with pytest.raises(DataError, match=r"flow\.length=frame, the model learned ip"):
        load_model(*given, str(small_model), misfit)
    with pytest.raises(DataError, match="has no device model"):
        load_model(*given, str(model_folder(sets=False)), FLOW)


def test_load_model__without_a_registry_there_is_none_and_nothing_is_created(settings: Settings) -> None:
    found = load_model(settings.tracking, settings.storage.root, None, FLOW)
    assert found.predictor is None
    assert "name a tracking store" in found.title
    assert not Path(settings.storage.root).exists()
    elsewhere = load_model(settings.tracking, "s3://bucket/tables", None, FLOW)
    assert elsewhere.predictor is None


def test_load_model__is_the_champion_of_the_store_in_storage_root_once_there_is_one(
    settings: Settings, small_model: Path
) -> None:
    given = settings.tracking, settings.storage.root
    registry = Registry(*given)
    run = start_run(registry, "d", [], {})
    example: list[dict[str, Any]] = [{"packet_length": [60], "tcp_window": [512]}]
    schema = FLOWS.arrow_schema()
    columns = pa.schema([schema.field("packet_length"), schema.field("tcp_window")])
    version = registry.register(run, small_model, pa.Table.from_pylist(example, columns))
    before = load_model(*given, None, FLOW)
    assert before.predictor is None
    assert "no version of iotid is champion" in before.title
    set_champion(registry, version.number)
    found = load_model(*given, None, FLOW)
    assert found.title == f"model version {version.number}"
    assert found.predictor is not None
    assert found.predictor.labels == ("camera", "plug")


def test_load_model__a_registry_that_does_not_answer_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_client, "RETRY_S", 0.1)
    away = config.with_values(settings.tracking, uri="http://127.0.0.1:9")
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        load_model(away, settings.storage.root, None, FLOW)


@pytest.mark.parametrize("find", [find_champion, lambda registry: load_model(registry.tracking, "x", None, FLOW)])
def test_champion__a_database_that_does_not_exist_is_refused_and_not_created(
    settings: Settings, tmp_path: Path, find: Callable[[Registry], Any]
) -> None:
    uri = f"sqlite:///{tmp_path}/typo/x.db"
    registry = Registry(config.with_values(settings.tracking, uri=uri), settings.storage.root)
    with pytest.raises(UserError, match=r"there is no database \S+/typo/x\.db"):
        find(registry)
    assert not (tmp_path / "typo").exists()


def test_load_model__of_a_folder_without_a_bundle_is_the_users_mistake(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--model \S+: is no bundle, it has no model\.json; give the folder of a model"
    ):
        load_model(settings.tracking, settings.storage.root, str(tmp_path), FLOW)
