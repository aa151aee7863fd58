"""start.py [--repeats N] [--root DIR]: what starting costs, with a night of one site, 20,000 packets and 11 devices.

Timed from outside are whole processes: `iotid assemble-flows`, `write-dataset` and `take-census` of the night, as they
are and with Spark (in_process_bytes=0); and, to say where the time goes, processes that do one part alone: the
interpreter, the command line, settings, the capture kernels, what a census imports, MLflow's client with a question to
the registry, the device model, Java, the first Python worker. The least wall time of N, and its CPU time. --root: a
folder to reuse. Ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from processes import measured, measured_step, processor
from sites import learn

from iotid import messages
from iotid.simulate.captures import write_demo

_NIGHT = ("--site", "home", "--date", "2026-01-11")
_SPARK = "from iotid import config, spark_session; spark = spark_session(config.load_settings(['local.yaml']).spark)"


def parts(root: str, bundle: str) -> dict[str, str]:
    """Name -> code of a process that does this part, and what comes before it."""
    registry = f"Registry(config.load_settings().tracking, {root!r})"
    return {
        "python": "pass",
        "command_line": "import iotid.cli",
        "settings": "from iotid import config; config.load_settings(['local.yaml'])",
        "kernels": "import iotid.flows.tasks",
        "census_imports": "import iotid.census.take",
        "mlflow": f"from iotid import config; from iotid.tracking import Registry; {registry}.find_version('champion')",
        "device_model": f"from iotid.model import Predictor; Predictor.load({bundle!r}).learned.devices",
        "java": _SPARK,
        "first_worker": f"{_SPARK}; spark.range(1).mapInArrow(lambda rows: rows, 'id long').toArrow()",
    }


def least(runs: list[dict[str, float]]) -> dict[str, float]:
    return min(runs, key=lambda run: run["wall_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root")
    given = parser.parse_args()
    messages.log_to_stderr()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(given.root or temporary).absolute()
        root, demo = f"{base}/store", base / "demo"
        if not Path(root).is_dir():
            write_demo(demo)
            learn(root, demo)
        from iotid import config
        from iotid.tracking import Registry

        registry = Registry(config.load_settings().tracking, root)
        bundle = str(registry.bundle("champion", base / "bundle"))
        layers = ["--config", "local.yaml", "--set", f"storage.root={root}"]
        captures = ["--captures", f"{demo}/captures/home/2026-01-11"]
        measured_step("split-pcaps", *captures, *_NIGHT, *layers)
        measured_step("assemble-flows", *_NIGHT, *layers)
        labels = ["--labels", f"{demo}/devices.yaml", "--dataset", "night"]
        steps = {
            "split-pcaps": [*captures, *_NIGHT],
            "assemble-flows": _NIGHT,
            "write-dataset": [*_NIGHT, *labels],
            "take-census": _NIGHT,
        }
        report: dict[str, Any] = {"processor": processor(), "repeats": given.repeats}
        for name, more in (("steps", ()), ("steps_on_spark", ("--set", "spark.in_process_bytes=0"))):
            report[name] = {
                step: least([measured_step(step, *line, *layers, *more) for _ in range(given.repeats)])
                for step, line in steps.items()
            }
        report["parts"] = {
            part: least([measured([sys.executable, "-c", code]) for _ in range(given.repeats)])
            for part, code in parts(root, bundle).items()
        }
        print(json.dumps(report), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
