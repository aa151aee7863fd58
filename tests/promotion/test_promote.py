"""The step `promote` on reports, and train, evaluate, promote and rollback against a server with PostgreSQL."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from iotid import config, schemas
from iotid.dataset import write_dataset
from iotid.errors import SchemaError, ServerError
from iotid.evaluation.schema import REPORT_VERSION
from iotid.labels import DeviceList
from iotid.model import Predictor
from iotid.partitions import PartitionKey, Store
from iotid.tracking import CHALLENGER, CHAMPION, Registry, champion, load
from iotid.tracking.runs import Run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    tracking = config.Tracking(uri=None, experiment="promotion", model="iotid")
    return Registry(tracking, str(tmp_path_factory.mktemp("embedded")))


def _system(macro_f1: float) -> dict[str, Any]:
    reads = {"flows_version": schemas.FLOWS.version, "length": "ip", "max_packets": 32, "unfit_nights": []}
    score = {"value": macro_f1, "low": None, "high": None}
    return {
        "kind": "ensemble",
        "origin": "",
        "knows": ["cam"],
        "metrics": {"macro_f1": score},
        "coarse": {"macro_f1": score},
        "ceiling_share": 1.0,
        "reliability": [],
        "per_class": [{"label": "cam", "precision": None, "recall": macro_f1, "f1": None, "support": 100}],
        "confusion": [[100]],
        "hidden": {},
        "seconds": {"fit": None, "score": 1},
        "expected_calibration_error": 0.1,
        "lead": {CHAMPION: {"value": 0.1, "low": 0.05, "high": 0.15}},
        "reads": {**reads, "characteristics": ["packet_length"], "protocols": [6]},
    }


@pytest.fixture
def decided(embedded: Registry, request: pytest.FixtureRequest, with_versions: Callable[..., Registry]) -> Registry:
    """Champion 1, challenger 2, and a report in which the challenger is better."""
    store = with_versions(embedded, request.node.name.split("__")[1], versions=2)
    champion.promote(store, 1, replaces=None)
    report = {
        "version": REPORT_VERSION,
        "dataset": {"name": store.tracking.model, "hash": "abc", "protocol": "by_time", "parts": {}},
        "labels": ["cam"],
        "merged": ["cam"],
        **dict.fromkeys(("floor", "leakage", "seen", "ceiling"), 0.5),
        "systems": {CHALLENGER: _system(0.9), CHAMPION: _system(0.8)},
    }
    with Store(store.storage_root).write("reports", PartitionKey.of_dataset(store.tracking.model)) as staged:
        staged.write_json("report.json", report)
        staged.metadata = {"versions": {CHALLENGER: 2, CHAMPION: 1}, "left_out": {}}
    return store


def _run(step: str, store: Registry, *arguments: str) -> Result:
    layers = [f"storage.root={store.storage_root}", f"tracking.model={store.tracking.model}"]
    if store.tracking.uri:
        layers.append(f"tracking.uri={store.tracking.uri}")
    sets = [part for layer in layers for part in ("--set", layer)]
    main = importlib.import_module(f"iotid.cli.{step}").main
    return CliRunner().invoke(main, ["--config", "local.yaml", *sets, *arguments])


def _errors(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith("Error: ")]


def test_promote__stores_reasons_and_reports_and_rollback_prints_one_line(decided: Registry) -> None:
    name = decided.tracking.model
    result = _run("promote", decided, "--dataset", name)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "promotion: version 2 is now the champion"
    store = Store(decided.storage_root)
    kept = store.open("decisions", PartitionKey.of_dataset(name, "2"))
    folder = decided.artifact(decided.version(2), "decision", Path(decided.storage_root) / "back")
    for read in (lambda file: store.read_json(kept, file), lambda file: json.loads((folder / file).read_text())):
        assert set(read("report.json")["systems"]) == {CHALLENGER, CHAMPION}
        decision = read("decision.json")
        assert decision["promoted"] is True
        assert decision["versions"] == {CHALLENGER: 2, CHAMPION: 1}
        assert decision["policy"]["margin_judged_by"] == "difference"
        assert " ".join(decision["reasons"]) == decided.version(2).tags["decision"]
    describe = decided.connect().get_model_version
    assert "### Promotion\n\nVersion 2 became the champion" in describe(name, "2").description
    assert _run("promote", decided, "--dataset", name).output == "promotion: version 2 is the champion already\n"

    result = _run("rollback", decided)
    assert (result.exit_code, result.output) == (
        0,
        "rollback: version 1 is the champion again, in place of version 2\n",
    )
    result = _run("rollback", decided)
    assert result.exit_code == 2
    assert "version 1 was the first champion; there is no earlier version to restore" in _errors(result)[0]


def test_promote__after_the_champion_changed_is_an_error_and_stores_nothing(
    decided: Registry, with_versions: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, log_json = decided.tracking.model, Run.log_json
    with_versions(decided, name, versions=1)
    decided.connect().set_registered_model_alias(name, CHALLENGER, "2")

    def other_first(self: Run, *arguments: Any) -> None:
        decided.connect().set_registered_model_alias(name, CHAMPION, "3")
        log_json(self, *arguments)

    monkeypatch.setattr(Run, "log_json", other_first)
    result = _run("promote", decided, "--dataset", name)
    assert result.exit_code == 1
    (line,) = _errors(result)
    assert (
        "the champion changed meanwhile: the comparison used champion version 1, now there is champion version 3"
        in line
    )
    assert decided.version_of(CHAMPION).number == 3
    assert not Store(decided.storage_root).exists("decisions", PartitionKey.of_dataset(name, "2"))


def test_promote__interrupted_after_setting_the_champion_is_finished_next_time(
    decided: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, set_tag = decided.tracking.model, Registry.set_tag

    def cut_off(self: Registry, version: int, key: str, value: str) -> None:
        if key == "decision":
            raise ServerError("tracking.uri: does not answer")
        set_tag(self, version, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_tag", cut_off)
        assert _run("promote", decided, "--dataset", name).exit_code == 2
    store, keys = Store(decided.storage_root), PartitionKey.of_dataset(name, 2)
    assert (decided.version_of(CHAMPION).number, store.exists("decisions", keys)) == (2, False)
    result = _run("promote", decided, "--dataset", name)
    assert result.output.splitlines()[-1] == "promotion: version 2 is now the champion"
    assert store.read_json(store.open("decisions", keys), "decision.json")["versions"] == {CHALLENGER: 2, CHAMPION: 1}
    assert champion.former_champion(decided, decided.version(2)) == 1
    assert _run("promote", decided, "--dataset", name).output == "promotion: version 2 is the champion already\n"


def test_promote__replaces_an_unloadable_champion_without_comparison(decided: Registry) -> None:
    name, store = decided.tracking.model, Store(decided.storage_root)
    report = store.read_json(store.open("reports", PartitionKey.of_dataset(name)), "report.json")
    del report["systems"][CHAMPION]
    sentence = "the champion, version 1, cannot be loaded and is left out: bundle_version must be 3, got 2; train again"
    with store.write("reports", PartitionKey.of_dataset(name)) as staged:
        staged.write_json("report.json", report)
        staged.metadata = {"versions": {CHALLENGER: 2, CHAMPION: 1}, "left_out": {CHAMPION: sentence}}
    result = _run("promote", decided, "--dataset", name)
    assert result.output.splitlines()[0] == f"promotion: {sentence}"
    assert "no champion to compare with" in result.output
    assert decided.version_of(CHAMPION).number == 2
    assert decided.version(2).tags["former_champion"] == "1"


@dataclass
class _Lab:
    """Settings of small trainings on a dataset of three devices, each of which sends its own length first."""

    store: Registry

    def run(self, step: str, *overrides: str, dataset: bool = True) -> str:
        small = ["model.embedding_size=8", "model.hidden_size=8", "model.layers=1", "model.sequence_counts=false"]
        small += ["training.ranks=1", "training.batch_size=32", "evaluation.baselines=[majority_sequence]"]
        small += ["evaluation.bootstrap=50", "promotion.min_macro_f1=0", "promotion.max_calibration_rise=null"]
        sets = [part for layer in (*small, *overrides) for part in ("--set", layer)]
        result = _run(step, self.store, *sets, *(("--dataset", "lab") if dataset else ()))
        assert result.exit_code == 0, result.output
        return result.output.splitlines()[-1]


def _flow(number: int) -> dict[str, Any]:
    random, device = np.random.default_rng(number), number % 3
    lengths = [100 + 100 * device, *random.integers(40, 80, random.integers(0, 6)).tolist()]
    seen = datetime(2026, 1, 31, 12, 0, number % 60, number, tzinfo=UTC)
    counts = ("client_packets", "client_bytes", "server_packets", "server_bytes")
    sequences = ("tcp_window", "inter_arrival_us", "tcp_flags", "payload_length")
    return {
        **dict.fromkeys(counts, len(lengths)),
        **{"answered": True, "address_conflict": False},
        **dict.fromkeys(sequences, [0] * len(lengths)),
        **{name: [] for name in schemas.HEADER_COLUMNS},
        **{"client_ip": f"10.0.0.{device}", "server_ip": "192.0.2.1", "capture_file": "a.pcap", "end_reason": "end"},
        **{"protocol": 6, "client_port": 1024 + number, "server_port": 443, "first_seen": seen, "last_seen": seen},
        **{
            "client_mac": f"02:00:00:00:00:0{device}",
            "packet_length": lengths,
            "direction": [1] * len(lengths),
            "client_packets": len(lengths),
            "server_packets": 0,
        },
    }


@pytest.fixture
def lab(served: Registry, spark: SparkSession) -> _Lab:
    settings, store = config.load_settings(["local.yaml"]), Store(served.storage_root)
    keys = PartitionKey.of_date("lab", "2026-01-31")
    with store.write("flows", keys, schemas.FLOWS.version) as staged:
        table = pa.Table.from_pylist([_flow(number) for number in range(240)], schemas.FLOWS.arrow_schema(stored=True))
        pq.write_table(table, f"{staged.path}/part.parquet")
        staged.metadata = {"rows": table.num_rows, "settings": {"flow": settings.flow.model_dump(mode="json")}}
    listed = "\n".join(f"  - {{name: device-{index}, mac: '02:00:00:00:00:0{index}'}}" for index in range(3))
    devices = Path(served.storage_root) / "devices.yaml"
    devices.write_text(f"devices:\n{listed}\n")
    write_dataset(
        spark, store, [store.open("flows", keys)], DeviceList.read(devices), settings.dataset, settings.flow, "lab"
    )
    return _Lab(served)


@pytest.mark.spark
def test_server__model_is_trained_promoted_replaced_and_rolled_back(lab: _Lab) -> None:
    assert lab.run("train", "training.epochs=1", "training.learning_rate=0.0000001").startswith("model: version 1")
    lab.run("evaluate")
    assert lab.run("promote") == "promotion: version 1 is now the champion"
    assert lab.run("train", "training.epochs=6", "training.learning_rate=0.03").startswith("model: version 2")
    lab.run("evaluate")
    assert lab.run("promote", "promotion.margin_judged_by=lower_bound") == "promotion: version 2 is now the champion"
    assert lab.store.version(2).tags["former_champion"] == "1"
    kept = Store(lab.store.storage_root)
    report = kept.read_json(kept.open("decisions", PartitionKey.of_dataset("lab", "2")), "report.json")
    scored = kept.read_json(kept.open("reports", PartitionKey.of_dataset("lab")), "report.json")
    assert scored["systems"][CHALLENGER]["whole_devices"]["recordings"] == 3
    assert lab.store.version(2).device_quality.startswith("of 3 device nights of the test split")
    assert "### Evaluation" in lab.store.connect().get_model_version(lab.store.tracking.model, "2").description
    lead = report["systems"][CHALLENGER]["lead"][CHAMPION]
    assert 0 < lead["low"] <= lead["value"] <= lead["high"] <= 1
    flows = pq.read_table(f"{kept.open('flows', PartitionKey.of_date('lab', '2026-01-31')).uri}/part.parquet")
    named = load("models:/iotid@champion", lab.store.uri).predict(flows)["label"].to_pylist()
    assert np.mean([name == f"device-{number % 3}" for number, name in enumerate(named)]) > 0.9
    assert lab.run("rollback", dataset=False) == "rollback: version 1 is the champion again, in place of version 2"
    assert lab.store.version_of(CHAMPION).number == 1


@pytest.mark.spark
def test_evaluate__reports_and_leaves_out_a_champion_of_another_version(
    lab: _Lab, with_versions: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _Lab(with_versions(lab.store, "old", versions=1))
    champion.promote(old.store, 1, replaces=None)
    old.run("train", "training.epochs=1")
    load, bundle = Predictor.load, Registry.bundle

    def with_old_champion(self: Registry, version: int, into: str) -> Path:
        return Path("champion") if version == 1 else bundle(self, version, into)

    def refuse_old(folder: Path) -> Predictor:
        if folder == Path("champion"):
            raise SchemaError("model.json: bundle_version must be 3, got 2; train again")
        return load(folder)

    monkeypatch.setattr(Registry, "bundle", with_old_champion)
    monkeypatch.setattr(Predictor, "load", refuse_old)
    old.run("evaluate")
    kept = Store(old.store.storage_root)
    page = kept.open("reports", PartitionKey.of_dataset("lab"))
    assert "version 1, cannot be loaded and is left out: model.json" in page.metadata["left_out"][CHAMPION]
    assert CHALLENGER in kept.read_json(page, "report.json")["systems"]
    assert old.run("promote") == "promotion: version 2 is now the champion"
