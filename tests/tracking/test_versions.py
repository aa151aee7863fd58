"""Model versions on the embedded SQLite: registered, found, tagged, downloaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iotid import config
from iotid.errors import NoModelError, UserError
from iotid.tracking import ModelVersion, Registry
from iotid.tracking.runs import Run


def test_register__makes_a_challenger_with_the_tags_of_its_run(
    embedded: Registry, run: Run, version: ModelVersion
) -> None:
    found = embedded.version_of("challenger")
    assert (found.number, found.run_id) == (version.number, run.id)
    tags = {"dataset": "lab", "dataset_hash": "abc123", "max_packets": "4", "length": "ip"}
    assert tags.items() <= version.tags.items() <= found.tags.items()
    today = datetime.now(UTC).date()
    assert version.date in {(today - timedelta(days=days)).isoformat() for days in (0, 1)}


def test_embedded__everything_is_below_the_storage_root(embedded: Registry, version: ModelVersion) -> None:
    root = Path(embedded.storage_root)
    assert {path.name for path in root.iterdir()} == {"mlflow.db", "mlflow-artifacts"}


def test_set_tag__is_in_the_version_that_is_found_next(
    embedded: Registry, with_versions: Callable[..., Registry]
) -> None:
    own = with_versions(embedded, "tagged", 1)
    before = own.version(1)
    own.set_tag(1, "quality", "macro F1 90 %")
    assert (before.quality, own.version(1).quality) == (None, "macro F1 90 %")
    with pytest.raises(UserError, match="not found"):
        own.version(2)


def test_bundle__is_found_by_number_alias_or_uri(embedded: Registry, version: ModelVersion, tmp_path: Path) -> None:
    number = version.number
    for index, which in enumerate([number, str(number), "challenger", "models:/iotid@challenger"]):
        folder = embedded.bundle(which, tmp_path / str(index))
        assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_bundle__unknown_alias_is_a_user_error(embedded: Registry, version: ModelVersion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models:/iotid@nobody is not available"):
        embedded.bundle("nobody", tmp_path)


def test_artifact__of_the_versions_run_or_a_user_error(
    embedded: Registry, run: Run, version: ModelVersion, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{}")
    run.log_artifacts(tmp_path, "evaluation")
    assert embedded.artifact(version, "evaluation/report.json", tmp_path / "back").read_text() == "{}"
    with pytest.raises(UserError, match=r"nothing\.json is not available"):
        embedded.artifact(version, "evaluation/nothing.json", tmp_path / "back")


def test_tracking__prints_nothing_and_loads_no_mlflow_until_used(
    write_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle")
    code = f"""
import sys
import iotid.tracking
from iotid import config
from iotid.tracking import Registry, champion
from iotid.tracking.runs import start_run
store = Registry(config.Tracking(uri=None, experiment="e", model="m"), {str(tmp_path / "store")!r})
assert "mlflow" not in sys.modules and "torch" not in sys.modules
import pyarrow as pa
types = {{"inter_arrival_us": pa.int64(), "direction": pa.int32()}}
flows = pa.table({{name: pa.array([[1]], pa.list_(kind)) for name, kind in types.items()}})
run = start_run(store, "quiet", [], {{}})
version = store.register(run, {str(tmp_path / "bundle")!r}, flows)
champion.promote(store, version.number, replaces=None)
iotid.tracking.load("models:/m@champion", store.uri).predict(flows)
run.end()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "store"}


def test_find_version__a_store_that_does_not_exist_is_not_created_for_a_question(tmp_path: Path) -> None:
    tracking, root = config.load_settings().tracking, tmp_path / "root"
    registry = Registry(tracking, str(root))
    assert registry.find_version("champion") is None
    with pytest.raises(NoModelError, match="no version of iotid is challenger; run iotid train first"):
        registry.version_of("challenger")
    misspelt = Registry(config.with_values(tracking, uri=f"sqlite:///{tmp_path}/typo/x.db"), str(root))
    for find in (misspelt.find_version, misspelt.version_of):
        with pytest.raises(UserError, match=r"there is no database \S+/typo/x\.db"):
            find("champion")
    assert not (tmp_path / "typo").exists()
    assert not (root / "mlflow.db").exists()
