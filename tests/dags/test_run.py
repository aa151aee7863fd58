"""The DAG, run to its end by Airflow: with a spark-submit that writes down its command line, and with Spark."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the Airflow environment (.venv-airflow)")
pytestmark = pytest.mark.dags

_DAG = "iotid_ingest_train_evaluate"
_NIGHT = "2026-01-10"
_REPOSITORY = Path(__file__).parents[2]
_DEPLOYMENT = {
    "jobs": "/opt/iotid/jobs",
    "captures": "s3a://captures",
    "sites": ["home", "office"],
    "labels": "/etc/iotid/devices.yaml",
    "storage": "s3a://tables",
    "config": ["cluster.yaml", "/etc/iotid/our.yaml"],
    "python": "/opt/iotid/bin/python",
    "driver_memory": "3g",
    "wheel": "/opt/iotid/iotid.zip",
}

_QUICK = """\
dataset: {label: model}
model: {embedding_size: 16, hidden_size: 16, layers: 1}
training: {ranks: 1, epochs: 2}
evaluation: {baselines: [majority_sequence], bootstrap: 0}
promotion: {min_macro_f1: 0.0}
"""

DagTest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A folder with a spark-submit that appends its command line to `lines` and succeeds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "spark-submit"
    program.write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {folder}/lines; echo >> {folder}/lines\n', encoding="utf-8")
    program.chmod(0o755)
    return folder


def test_run__every_task_submits_the_golden_command_line(dag_test: DagTest, recorder: Path) -> None:
    done = dag_test(_DAG, _NIGHT, _DEPLOYMENT, recorder)
    assert "state=success" in done.stdout, done.stdout[-4000:]
    told = (shlex.join(shlex.split(line)) for line in (recorder / "lines").read_text().splitlines())
    golden = (Path(__file__).parent / "command_lines.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(told) == sorted(golden)


def test_run__job_that_fails_twice_is_tried_a_third_time(dag_test: DagTest, recorder: Path) -> None:
    program = (recorder / "spark-submit").read_text(encoding="utf-8")
    fails = f'[[ "$*" != *train.py* ]] || (( $(grep -c /train.py {recorder}/lines) > 2 ))\n'
    (recorder / "spark-submit").write_text(program + fails, encoding="utf-8")
    done = dag_test(_DAG, _NIGHT, _DEPLOYMENT, recorder)
    assert "state=success" in done.stdout, done.stdout[-4000:]
    assert (recorder / "lines").read_text().count("/train.py") == 3


def test_run__job_that_keeps_failing_fails_the_run_and_nothing_after_it_is_submitted(
    dag_test: DagTest, recorder: Path
) -> None:
    program = (recorder / "spark-submit").read_text(encoding="utf-8")
    fails = 'if [[ "$*" = *write_dataset.py* ]]; then echo "Error: labels: no such file"; exit 2; fi\n'
    (recorder / "spark-submit").write_text(program + fails, encoding="utf-8")
    done = dag_test(_DAG, _NIGHT, _DEPLOYMENT, recorder)
    assert "state=failed" in done.stdout, done.stdout[-4000:]
    assert "Error: labels: no such file" in done.stdout
    submitted = (recorder / "lines").read_text()
    assert submitted.count("/write_dataset.py") == 3
    assert "/train.py" not in submitted
    assert "/take_census.py" not in submitted


@pytest.mark.spark
@pytest.mark.timeout(1500)
def test_run__demo_night_goes_from_captures_to_a_census_of_each_site(dag_test: DagTest, tmp_path: Path) -> None:
    main_environment = _REPOSITORY / ".venv" / "bin"
    write = "import sys, pathlib; from iotid.capture.simulate import write_demo; write_demo(pathlib.Path(sys.argv[1]))"
    subprocess.run([main_environment / "python", "-c", write, tmp_path], check=True)
    (tmp_path / "quick.yaml").write_text(_QUICK, encoding="utf-8")
    deployment = {
        "jobs": str(_REPOSITORY / "jobs"),
        "captures": str(tmp_path / "captures"),
        "sites": ["home", "office"],
        "labels": str(tmp_path / "devices.yaml"),
        "storage": str(tmp_path / "store"),
        "config": ["local.yaml", str(tmp_path / "quick.yaml")],
        "python": str(main_environment / "python"),
        "driver_memory": "2g",
        "wheel": "",
    }
    done = dag_test(_DAG, _NIGHT, deployment, main_environment, timeout_s=1400)
    assert "state=success" in done.stdout, done.stdout[-8000:]
    store = tmp_path / "store"
    for table in ("splits", "flows", "census"):
        for site in deployment["sites"]:
            assert (store / table / f"site={site}" / f"capture_date={_NIGHT}" / "_SUCCESS").is_file()
    assert (store / "datasets" / f"name=nightly-{_NIGHT}" / "_SUCCESS").is_file()
