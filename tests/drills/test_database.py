"""The tracking server's database goes away in the middle of a step: nothing is lost, nothing doubled, one line says so,
and the next run completes it.

A real MLflow server with a real PostgreSQL, which is stopped, as by a restart or by a crash, and started again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
import tenacity

from iotid import config
from iotid.flows import from_captures
from iotid.partitions import PartitionKey, Store
from iotid.tracking import CHALLENGER, CHAMPION, Registry, champion, client, lock
from iotid.tracking.lock import Lock
from iotid.tracking.runs import Run, start_run

pytestmark = pytest.mark.spark

_EPOCHS = 6


class _Lab(logging.Handler):
    """A dataset of one night, a tracking server, its database, and the log lines about waiting for it."""

    def __init__(self, records: Any, nights: Any, ask: Callable[..., Any], store: Registry) -> None:
        super().__init__()
        self.records, self.nights, self.store, self.waited = records, nights, store, 0
        self._ask, self._restarting = ask, False

    def step(self, name: str) -> Any:
        """Do a step on the dataset; training is one rank, in this process."""
        small = ["training.ranks=1", f"training.epochs={_EPOCHS}", "model.embedding_size=8", "model.hidden_size=8"]
        small += ["evaluation.baselines=[]", "evaluation.bootstrap=20", "promotion.min_macro_f1=0"]
        small += ["promotion.max_calibration_error=null"]
        small += [f"tracking.{key}={value}" for key, value in self.store.tracking.model_dump().items()]
        self.waited = 0
        return self._ask(name, self.nights.layers(*small), "--dataset", "all")

    def restart(self, how: str) -> None:
        """The database is unreachable until a step waits for it."""
        self.records.stop(how)
        self._restarting = True

    def stop(self, patch: pytest.MonkeyPatch) -> None:
        """It is unreachable for longer than a step waits."""
        self.records.stop("immediate")
        patch.setattr(client, "RETRY_S", 0.5)

    def emit(self, record: logging.LogRecord) -> None:
        self.waited += "waiting for the tracking server" in record.getMessage()
        if self._restarting:
            self._restarting = False
            self.records.start()


def _before_first(patch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[[], None]) -> None:
    """Do something before the first call of a function of a module, or of a method of a class."""
    rest, call = iter([True]), getattr(owner, name)

    def disturbed(*arguments: Any) -> Any:
        if next(rest, False):
            do()
        return call(*arguments)

    patch.setattr(owner, name, disturbed)


@pytest.fixture(scope="module")
def lab(
    spark: Any,
    tracking_server: tuple[str, Any],
    module_at: Callable[[Path], ModuleType],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[_Lab]:
    drill, database = (module_at(Path(__file__).with_name(name)) for name in ("nights.py", "database.py"))
    folder, (uri, records) = tmp_path_factory.mktemp("database"), tracking_server
    nights = drill.Nights(folder, folder / "store", seed=1)
    day = nights.day(0)
    nights.restore(day)
    assert nights.run(day) == nights.write_dataset([day]) == (0, [])
    for question in ("experiments/search?max_results=1", "registered-models/search") * 10:
        # each process of the server opens the database at its first question, and waits long for one that is away
        assert requests.get(f"{uri}/api/2.0/mlflow/{question}", timeout=60).ok
    tracking = config.Tracking(uri=uri, experiment="restarted", model="restarted")
    lab = _Lab(records, nights, drill.ask, Registry(tracking, str(nights.root)))
    one_rank = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(database.free_port())}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in one_rank.items():
            patch.setenv(name, value)
        logging.getLogger(client.__name__).addHandler(lab)
        yield lab
        logging.getLogger(client.__name__).removeHandler(lab)


@pytest.fixture(scope="module")
def trained(lab: _Lab) -> list[tuple[Any, int]]:
    """A training whose database restarts, then stays away; and the same command again, when it restarts once more:
    how each ended, and how often it said that it waits."""
    answers, log_epoch = [], Run.log_epoch

    def disturbed(self: Run, metrics: Any, epoch: int) -> None:
        if epoch == 2:
            lab.restart("fast")
        if epoch == 4:
            lab.stop(patch)
        log_epoch(self, metrics, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log_epoch", disturbed)
        answers.append((lab.step("train"), lab.waited))
    lab.records.start()
    with pytest.MonkeyPatch.context() as patch:
        _before_first(patch, Registry, "create_model", lambda: lab.restart("immediate"))
        answers.append((lab.step("train"), lab.waited))
    return answers


def test_training__with_unreachable_database_is_logged_by_the_next_run(trained: Any, lab: _Lab) -> None:
    (first, _), (second, waited) = trained
    assert (first.code, len(first.errors)) == (2, 1)
    assert "does not answer" in first.errors[0]
    assert "run this command again to register it without training" in first.errors[0]
    assert (second, waited) == ((0, []), 1)


def test_training__twice_without_database_is_one_run_and_one_version(trained: Any, lab: _Lab) -> None:
    client = lab.store.connect()
    experiment = client.get_experiment_by_name(lab.store.tracking.experiment).experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    (history,) = Path(lab.nights.root, "runs", "all").rglob("history.json")
    learned = [epoch["loss"] for epoch in json.loads(history.read_text())]
    logged = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in logged) == list(enumerate(learned, start=1))
    (model,) = client.search_logged_models([experiment])
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["all"]
    (version,) = client.search_model_versions(f"name = '{lab.store.tracking.model}'")
    assert (version.run_id, version.source) == (run.info.run_id, model.artifact_location)
    assert lab.store.version_of(CHALLENGER).number == int(version.version)


def test_promotion__interrupted_after_setting_the_champion_is_finished_next_time(trained: Any, lab: _Lab) -> None:
    assert lab.step("evaluate") == (0, [])
    keys, kept = PartitionKey.of_dataset("all", 1), Store(str(lab.nights.root))
    with pytest.MonkeyPatch.context() as patch:
        stop_after_moving = partial(_before_first, patch, champion, "check_champion", lambda: lab.stop(patch))
        _before_first(patch, champion, "set_champion", stop_after_moving)
        answer = lab.step("promote")
    assert (answer.code, len(answer.errors)) == (2, 1)
    assert "does not answer" in answer.errors[0]
    assert not kept.exists("decisions", keys)
    lab.records.start()
    assert lab.store.version_of(CHAMPION).number == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "EXPIRES_S", 1.0)  # of the process that could not release it
        _before_first(patch, Run, "log_json", lambda: lab.restart("fast"))
        assert (lab.step("promote"), lab.waited) == ((0, []), 1)
    decision = kept.read_json(kept.open("decisions", keys), "decision.json")
    assert decision["promoted"] is True
    assert lab.store.version(1).tags["decision"] == " ".join(decision["reasons"])
    assert lab.store.version_of(CHAMPION).number == 1
    assert Lock(lab.store).holder() is None


def test_registry__creates_each_entity_once_if_every_first_response_is_lost(
    trained: Any, lab: _Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the database, or the line, goes away between the work and its answer."""
    asked, request = set(), requests.Session.request

    def lose(self: Any, method: str, url: str, **rest: Any) -> Any:
        answer = request(self, method, url, **rest)
        if method in ("POST", "PATCH") and answer.ok and (method, url) not in asked:
            asked.add((method, url))
            raise requests.exceptions.ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(tenacity, "wait_random_exponential", lambda **_: tenacity.wait_none())
    monkeypatch.setattr(requests.Session, "request", lose)
    tracking = lab.store.tracking.model_copy(update={"model": "lost", "experiment": "lost"})
    store, (weights,) = Registry(tracking, str(lab.nights.root)), lab.nights.root.glob("runs/all/*/model.json")
    run = start_run(store, "lost", [tracking], {"dataset": "all"})
    run.log_history([{"loss": 0.5}, {"loss": 0.25}])
    example = from_captures(lab.nights.captures(lab.nights.day(0)))
    assert store.register(run, weights.parent, example.slice(0, 5)).number == 1
    champion.promote(store, 1, replaces=None)
    run.end()
    monkeypatch.undo()
    assert len(asked) > 8
    client = store.connect()
    experiment = client.get_experiment_by_name("lost").experiment_id
    (known,) = client.search_runs([experiment])
    assert (known.info.run_id, known.info.status) == (run.id, "FINISHED")
    assert [metric.step for metric in client.get_metric_history(run.id, "loss")] == [1, 2]
    (model,) = client.search_logged_models([experiment])
    assert [output.model_id for output in known.outputs.model_outputs] == [model.model_id]
    (version,) = client.search_model_versions("name = 'lost'")
    assert store.version_of(CHAMPION).number == int(version.version)
