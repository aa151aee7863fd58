"""What somebody gets who installs the wheel with its constraints, outside the clone: the demo, and without the extras
flows and predictions but no Spark. `installed.py DIST` (make test-wheel)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv-uv" / "bin" / "uv"

WITHOUT_SPARK = """
import importlib.util, sys
assert not any(importlib.util.find_spec(name) for name in ("pyspark", "petastorm", "scapy")), "an extra came along"
import iotid.capture, iotid.flows, iotid.tracking
captures, tracking = sys.argv[1:]
packets = iotid.capture.read_packets([captures])
flows = iotid.flows.from_captures([captures])
answers = iotid.tracking.load("models:/iotid@champion", tracking_uri=tracking).predict(flows)
assert len(packets) > len(flows) == len(answers) > 1000
assert {"label", "confidence"} <= set(answers.column_names)
print(f"{len(packets):,} packets, {len(flows):,} flows, {len(answers):,} predictions, without Spark")
"""


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "IOTID"))
        } | {"HOME": folder, "UV_CACHE_DIR": _cache()}

        def run(*command: str | Path, fails: bool = False) -> str:
            done = subprocess.run(command, cwd=outside, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            if (done.returncode != 0) != fails:
                sys.exit(f"installed.py: {command[0]} ended with {done.returncode}:\n{done.stdout}")
            return done.stdout

        def install(name: str, what: str) -> Path:
            run(UV, "venv", "--quiet", "--python", sys.executable, outside / name)
            tested = dist / "constraints.txt"
            constraints = ["--constraints", tested, "--build-constraints", tested]
            python = outside / name / "bin" / "python"
            run(UV, "pip", "install", "--quiet", "--python", python, "--no-config", *constraints, what)
            return outside / name / "bin"

        programs = install("demo", f"iotid[demo] @ file://{wheel.resolve()}")
        printed = run(programs / "iotid", "demo")
        if printed.count("census: ") != 4 or "Outputs" not in printed:
            sys.exit(f"installed.py: the demo did not end as it should:\n{printed}")
        print("the demo ran from the wheel alone", flush=True)
        plain = install("plain", f"iotid @ file://{wheel.resolve()}")
        made = outside / "var" / "demo"
        print(
            run(plain / "python", "-c", WITHOUT_SPARK, made / "demo" / "captures", f"sqlite:///{made}/mlflow.db"),
            end="",
        )
        run(plain / "iotid", "--help")
        run(plain / "iotid", "demo", fails=True)  # one line that names the extra


def _cache() -> str:
    """The cache that uv has for this user, so that the empty home does not cost the downloads again."""
    return subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
