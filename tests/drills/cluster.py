"""cluster.py WHEEL: all steps on one machine and on a standalone cluster, and an ingest of which a worker dies.

A real master and two real workers, processes on the loopback interface. Every job is submitted by ``spark-submit`` with
conf/cluster.yaml; the library travels as WHEEL (the one named .zip) to a Python that has none, and two ranks train on
two executors. The captures are those that the project writes itself. Splits, flows and dataset must be the same, file
for file and row for row, and the census the same but for what the order of additions changes. Ends with one line of
JSON, and with 1 where something was not as it must be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import content, descendants, start_ingest
from standalone import Cluster, environment, python_without_iotid, running, spark_home

_JOBS = Path(__file__).parents[2] / "jobs"
_NIGHT = ("--site", "home", "--date", "2026-01-10")
_SMALL = (
    "capture.split_bytes=400000", "capture.task_bytes=400000", "spark.shuffle_partitions=3", "flow.idle_timeout_s=600",
    "model.embedding_size=8", "model.hidden_size=8", "model.layers=1", "training.ranks=2", "training.threads=1",
    "training.epochs=2", "training.device=cpu", "evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=20",
    "promotion.min_macro_f1=0", "promotion.max_calibration_error=null",
)  # fmt: skip
_TOLERANCE = 1e-3  # of confidences: two machines add up in two orders


def all_steps(
    root: Path, demo: Path, launcher: list[str], variables: dict[str, str], *settings: str
) -> dict[str, float]:
    """Seconds of each step, all of which must end well; ``launcher``: what stands before the path of a job."""
    steps = {
        "split_pcaps": [*_NIGHT, "--captures", str(demo / "captures" / "home" / "2026-01-10")],
        "assemble_flows": [*_NIGHT],
        "write_dataset": [*_NIGHT, "--labels", str(demo / "devices.yaml"), "--dataset", "drill"],
        **{step: ["--dataset", "drill"] for step in ("train", "evaluate", "promote")},
        "take_census": [*_NIGHT],
    }
    layers = [part for text in (*_SMALL, *settings, f"storage.root={root}") for part in ("--set", text)]
    seconds = {}
    for step, arguments in steps.items():
        begin = time.monotonic()
        command = [*launcher, str(_JOBS / f"{step}.py"), "--config", "cluster.yaml", *layers, *arguments]
        ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=1200)
        if ran.returncode:
            raise SystemExit(f"cluster.py: {step} by {launcher[0]} failed:\n{ran.stderr[-4000:]}")
        seconds[step] = round(time.monotonic() - begin, 1)
        sys.stderr.write(f"{Path(launcher[0]).name} {step}: {seconds[step]} s\n")
    return seconds


def kill_worker(cluster: Cluster) -> None:
    """The worker, its executor and the Python processes of that, all at the same time, as when a machine fails."""
    worker = cluster.workers[1]
    for pid in (worker, *descendants(worker)):
        os.kill(pid, signal.SIGKILL)


def ingest_with_a_death(root: Path, demo: Path, cluster: Cluster) -> float:
    """Seconds of an ingest that must end well although a worker is killed while flows are being made."""
    log, begin = root.with_suffix(".log"), time.monotonic()
    captures = demo / "captures" / "home" / "2026-01-10"
    run = start_ingest(root, captures, demo / "devices.yaml", cluster.url, log)
    while not (root / "_staging" / "flows").exists():
        if run.poll() is not None:
            raise SystemExit(f"cluster.py: the run ended before a worker could be killed:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)
    time.sleep(1)
    kill_worker(cluster)
    if run.wait(timeout=1200) != 0:
        raise SystemExit(f"cluster.py: the run of which a worker was killed failed:\n{log.read_text()[-3000:]}")
    return round(time.monotonic() - begin, 1)


def files_that_differ(one: Path, other: Path) -> list[str]:
    """Files of splits, flows and dataset that only one of two stores has, or that hold other rows there."""
    here, there = ({(place, row) for place, rows in content(root).items() for row in rows} for root in (one, other))
    return sorted({f"{place}/{row.split()[0]}" for place, row in here ^ there})


def census_differs(one: Path, other: Path) -> list[str]:
    """Columns of the census that differ by more than additions in another order do."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = "census/site=home/capture_date=2026-01-10/part-0.parquet"
    here, there = (pq.ParquetFile(root / place).read() for root in (one, other))
    if here.num_rows != there.num_rows or here.schema != there.schema:
        return ["rows or columns"]

    def same(name: str) -> bool:
        if not pa.types.is_floating(here.schema.field(name).type):
            return bool(here[name].equals(there[name]))
        return np.allclose(here[name].to_numpy(), there[name].to_numpy(), atol=_TOLERANCE, equal_nan=True)

    return [name for name in here.schema.names if name != "model_version" and not same(name)]


def main() -> None:
    from iotid.simulate.captures import write_demo

    wheel = Path(sys.argv[1]).absolute()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = folder / "demo"
        write_demo(demo)
        submit = [str(spark_home() / "bin" / "spark-submit"), "--py-files", str(wheel)]
        alone = {**environment(), "PYSPARK_PYTHON": python_without_iotid(folder / "python")}
        alone.pop("PYTHONPATH", None)
        with running(folder / "cluster") as cluster:
            seconds = {"cluster": all_steps(folder / "two", demo, [*submit, "--master", cluster.url], alone)}
            killed_s = ingest_with_a_death(folder / "three", demo, cluster)
        seconds["one_machine"] = all_steps(
            folder / "one", demo, [sys.executable], environment(), "spark.master=local[2]"
        )
        names = {"two": "cluster", "three": "worker_killed"}
        differs = {name: files_that_differ(folder / "one", folder / root) for root, name in names.items()}
        differs["census"] = census_differs(folder / "one", folder / "two")
    sys.stdout.write(json.dumps({"seconds": seconds, "worker_killed": killed_s, "differs": differs}) + "\n")
    raise SystemExit(1 if any(differs.values()) else 0)


if __name__ == "__main__":
    main()
