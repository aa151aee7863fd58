"""Who becomes the champion when several decide at once, on the embedded SQLite and on a server with PostgreSQL."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import time
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
from iotid.errors import DataError, SchemaError, ServerError, StaleError
from iotid.evaluation.schema import REPORT_VERSION
from iotid.labels import DeviceList
from iotid.model import Predictor
from iotid.partitions import PartitionKey, Store
from iotid.tracking import registry
from iotid.tracking.registry import CHALLENGER, CHAMPION, Registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_RACER = """
import sys
from iotid.config import Tracking
from iotid.errors import SchemaError, StaleError
from iotid.tracking.registry import Registry

uri, model, root, version = sys.argv[1:]
store = Registry(Tracking(uri=uri or None, experiment="race", model=model), root)
store.find_version("champion")
print("ready", flush=True)
sys.stdin.readline()
try:
    store.promote(int(version), over=1)
    print("moved", flush=True)
except StaleError as fault:
    print(fault, flush=True)
"""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    tracking = config.Tracking(uri=None, experiment="race", model="iotid")
    return Registry(tracking, str(tmp_path_factory.mktemp("embedded")))


def _of_model(store: Registry, name: str, versions: int) -> Registry:
    """The same records, and ``versions`` versions of a model of that name in them, with nothing behind them."""
    store = Registry(store.tracking.model_copy(update={"model": name}), store.storage_root)
    client, run = store._client(), store.start_run(name, [], {})
    store._ensure_model(client)
    for _ in range(versions):
        version = client.create_model_version(name, client.get_run(run).info.artifact_uri, run)
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    return store


def _nobody_has_the_turn(store: Registry) -> bool:
    return store._turn_holder() is None


@pytest.mark.parametrize("records", ["embedded", pytest.param("served", marks=pytest.mark.spark)])
def test_promote__of_several_processes_exactly_one_moves_the_champion(
    records: str, request: pytest.FixtureRequest
) -> None:
    store = _of_model(request.getfixturevalue(records), "raced", versions=4)
    store.promote(1, over=None)
    where = [store.tracking.uri or "", store.tracking.model, store.storage_root]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = {
        version: subprocess.Popen([sys.executable, "-c", _RACER, *where, str(version)], **pipes)
        for version in (2, 3, 4)
    }
    for racer in racers.values():
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = {version: racer.communicate(timeout=120)[0].splitlines() for version, racer in racers.items()}
    (winner,) = [version for version, lines in told.items() if lines == ["moved"]]
    assert store.version_of(CHAMPION) == winner
    for version in racers.keys() - {winner}:
        (line,) = told[version]
        assert (
            f"the champion has changed meanwhile: this was decided against version 1, but it is version {winner}"
            in line
        )
    assert _nobody_has_the_turn(store)


def test_promote__that_waited_for_its_turn_sees_that_the_champion_has_changed(embedded: Registry) -> None:
    store = _of_model(embedded, "waited", versions=3)
    store.promote(1, over=None)
    faults: list[BaseException] = []

    def late() -> None:
        try:
            store.promote(3, over=1)
        except StaleError as fault:
            faults.append(fault)

    waiting = threading.Thread(target=late)
    with store._turn():
        waiting.start()
        time.sleep(1)
        assert waiting.is_alive()
        store._set_champion(2)
    waiting.join(60)
    assert len(faults) == 1
    assert store.version_of(CHAMPION) == 2
    assert "former_champion" not in store.tags(3)


def test_promote__against_a_champion_that_is_gone_moves_nothing(embedded: Registry) -> None:
    store = _of_model(embedded, "gone", versions=1)
    with pytest.raises(StaleError, match="decided against version 7, but it is version None now; nothing was moved"):
        store.promote(1, over=7)
    assert store.find_version(CHAMPION) is None
    assert _nobody_has_the_turn(store)


def test_rollback__to_what_is_no_version_is_one_line(embedded: Registry) -> None:
    store = _of_model(embedded, "odd", versions=1)
    store.promote(1, over=None)
    for tag in ("", "one", "1.5", "-1", "\n", "9" * 400):
        store.set_tag(1, "former_champion", tag)
        with pytest.raises(
            DataError, match="tag former_champion of version 1 must be a version's number, got"
        ) as caught:
            store.rollback()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_rollback__of_two_at_once_the_second_does_not_go_back_twice(
    embedded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _of_model(embedded, "twice", versions=3)
    for over, version in ((None, 1), (1, 2), (2, 3)):
        store.promote(version, over=over)
    rest, tags = iter([True]), Registry.tags

    def other_first(self: Registry, version: int) -> dict[str, str]:
        """The second process goes all the way between the first one's reading and its turn."""
        told = tags(self, version)
        if next(rest, False):
            assert self.rollback() == (3, 2)
        return told

    monkeypatch.setattr(Registry, "tags", other_first)
    with pytest.raises(StaleError, match="decided against version 3, but it is version 2 now"):
        store.rollback()
    assert store.version_of(CHAMPION) == 2


def test_turn__of_a_process_that_died_is_taken_away_after_a_time(
    embedded: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = _of_model(embedded, "died", versions=1)
    monkeypatch.setattr(registry, "_TURN_S", 1.0)
    assert store._claim_turn("dead") == "dead"
    assert store._claim_turn("dead") == "dead", "a claim repeated after a broken connection is the same claim"
    started = time.monotonic()
    store.promote(1, over=None)
    assert time.monotonic() - started > 1
    assert caplog.text.count("has died; going on") == 1
    assert store.version_of(CHAMPION) == 1
    assert _nobody_has_the_turn(store)


def test_turn__that_was_taken_away_is_not_given_back_for_another(embedded: Registry) -> None:
    store = _of_model(embedded, "other", versions=1)
    with store._turn():
        holder = store._turn_holder()
        assert holder is not None
        store._end_turn("somebody else")
        assert store._turn_holder() == holder
        store._end_turn(holder)
        assert store._claim_turn("next") == "next"
    assert store._turn_holder() == "next"


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
def decided(embedded: Registry, request: pytest.FixtureRequest) -> Registry:
    """Champion 1, challenger 2, and the report that says the challenger is better."""
    store = _of_model(embedded, request.node.name.split("__")[1], versions=2)
    store.promote(1, over=None)
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


def _errors(told: Result) -> list[str]:
    return [line for line in told.output.splitlines() if line.startswith("Error: ")]


def test_promote__keeps_why_with_both_reports_and_rollback_says_one_line(decided: Registry) -> None:
    name = decided.tracking.model
    told = _run("promote", decided, "--dataset", name)
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[-1] == "promotion: version 2 is now the champion"
    store = Store(decided.storage_root)
    kept = store.open("decisions", PartitionKey.of_dataset(name, "2"))
    folder = decided.artifact(2, "decision", Path(decided.storage_root) / "back")
    for read in (lambda file: store.read_json(kept, file), lambda file: json.loads((folder / file).read_text())):
        assert set(read("report.json")["systems"]) == {CHALLENGER, CHAMPION}
        decision = read("decision.json")
        assert decision["promoted"] is True
        assert decision["versions"] == {CHALLENGER: 2, CHAMPION: 1}
        assert decision["policy"]["margin_judged_by"] == "difference"
        assert " ".join(decision["reasons"]) == decided.tags(2)["decision"]
    assert _run("promote", decided, "--dataset", name).output == "promotion: version 2 is the champion already\n"

    told = _run("rollback", decided)
    assert (told.exit_code, told.output) == (
        0,
        "rollback: version 1 is the champion again, in place of version 2\n",
    )
    told = _run("rollback", decided)
    assert told.exit_code == 2
    assert "version 1 was the first champion; there is none to go back to" in _errors(told)[0]


def test_promote__too_late_says_one_line_and_keeps_no_decision(
    decided: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, log_json = decided.tracking.model, Registry.log_json
    _of_model(decided, name, versions=1)
    decided._client().set_registered_model_alias(name, CHALLENGER, "2")

    def other_first(self: Registry, *arguments: Any) -> None:
        self._client().set_registered_model_alias(name, CHAMPION, "3")
        log_json(self, *arguments)

    monkeypatch.setattr(Registry, "log_json", other_first)
    told = _run("promote", decided, "--dataset", name)
    assert told.exit_code == 1
    (line,) = _errors(told)
    assert "the champion has changed meanwhile: this was decided against version 1, but it is version 3 now" in line
    assert decided.version_of(CHAMPION) == 3
    assert not Store(decided.storage_root).exists("decisions", PartitionKey.of_dataset(name, "2"))


def test_promote__cut_off_when_the_champion_had_moved_keeps_its_decision_the_next_time(
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
    assert (decided.version_of(CHAMPION), store.exists("decisions", keys)) == (2, False)
    told = _run("promote", decided, "--dataset", name)
    assert told.output.splitlines()[-1] == "promotion: version 2 is now the champion"
    assert store.read_json(store.open("decisions", keys), "decision.json")["versions"] == {CHALLENGER: 2, CHAMPION: 1}
    assert decided.former_champion(2) == 1
    assert _run("promote", decided, "--dataset", name).output == "promotion: version 2 is the champion already\n"


def test_promote__over_a_champion_that_could_not_be_loaded_says_so_and_needs_no_comparison(decided: Registry) -> None:
    name, store = decided.tracking.model, Store(decided.storage_root)
    report = store.read_json(store.open("reports", PartitionKey.of_dataset(name)), "report.json")
    del report["systems"][CHAMPION]
    sentence = "the champion, version 1, cannot be loaded and is left out: bundle_version must be 3, got 2; train again"
    with store.write("reports", PartitionKey.of_dataset(name)) as staged:
        staged.write_json("report.json", report)
        staged.metadata = {"versions": {CHALLENGER: 2, CHAMPION: 1}, "left_out": {CHAMPION: sentence}}
    told = _run("promote", decided, "--dataset", name)
    assert told.output.splitlines()[0] == f"promotion: {sentence}"
    assert "no champion that it could be compared with" in told.output
    assert decided.version_of(CHAMPION) == 2
    assert decided.tags(2)["former_champion"] == "1"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tracking_server: tuple[str, Any]) -> Registry:
    """An MLflow server over HTTP with PostgreSQL behind it, all on the loopback."""
    tracking = config.Tracking(uri=tracking_server[0], experiment="served", model="iotid")
    return Registry(tracking, str(tmp_path_factory.mktemp("served") / "store"))


@dataclass
class _Lab:
    """Settings of small trainings on a dataset of three devices, each of which sends its own length first."""

    store: Registry

    def run(self, step: str, *overrides: str, dataset: bool = True) -> str:
        small = ["model.embedding_size=8", "model.hidden_size=8", "model.layers=1", "model.sequence_counts=false"]
        small += ["training.ranks=1", "training.batch_size=32", "evaluation.baselines=[majority_sequence]"]
        small += ["evaluation.bootstrap=50", "promotion.min_macro_f1=0", "promotion.max_calibration_rise=null"]
        sets = [part for layer in (*small, *overrides) for part in ("--set", layer)]
        told = _run(step, self.store, *sets, *(("--dataset", "lab") if dataset else ()))
        assert told.exit_code == 0, told.output
        return told.output.splitlines()[-1]


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
        **{"client_ip": f"10.0.0.{device}", "server_ip": "192.0.2.1", "capture_file": "a.pcap", "end_reason": "end"},
        **{"protocol": 6, "client_port": 1024 + number, "server_port": 443, "first_seen": seen, "last_seen": seen},
        **{"client_mac": f"02:00:00:00:00:0{device}", "packet_length": lengths, "direction": [1] * len(lengths)},
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
def test_server__a_model_is_trained_registered_promoted_replaced_and_put_back(lab: _Lab) -> None:
    assert lab.run("train", "training.epochs=1", "training.learning_rate=0.0000001").startswith("model: version 1")
    lab.run("evaluate")
    assert lab.run("promote") == "promotion: version 1 is now the champion"
    assert lab.run("train", "training.epochs=6", "training.learning_rate=0.03").startswith("model: version 2")
    lab.run("evaluate")
    assert lab.run("promote", "promotion.margin_judged_by=lower_bound") == "promotion: version 2 is now the champion"
    assert lab.store.tags(2)["former_champion"] == "1"
    kept = Store(lab.store.storage_root)
    report = kept.read_json(kept.open("decisions", PartitionKey.of_dataset("lab", "2")), "report.json")
    lead = report["systems"][CHALLENGER]["lead"][CHAMPION]
    assert 0 < lead["low"] <= lead["value"] <= lead["high"] <= 1
    flows = pq.read_table(f"{kept.open('flows', PartitionKey.of_date('lab', '2026-01-31')).uri}/part.parquet")
    named = registry.load("models:/iotid@champion", lab.store.uri).predict(flows)["label"].to_pylist()
    assert np.mean([name == f"device-{number % 3}" for number, name in enumerate(named)]) > 0.9
    assert lab.run("rollback", dataset=False) == "rollback: version 1 is the champion again, in place of version 2"
    assert lab.store.version_of(CHAMPION) == 1


@pytest.mark.spark
def test_evaluate__names_and_leaves_out_a_champion_of_another_version(
    lab: _Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _Lab(_of_model(lab.store, "old", versions=1))
    old.store.promote(1, over=None)
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
