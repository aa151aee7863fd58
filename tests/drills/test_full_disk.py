"""A full disk ends a step with a one-line error, keeps existing data, and does not affect later runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iotid.simulate.captures import write_demo

_NAMESPACE = ["unshare", "--map-root-user", "--mount"]  # a mount of one's own needs no other rights
_STEPS = """
import contextlib, importlib, io, json, subprocess, sys
from pathlib import Path
disk, captures, labels = sys.argv[1:]
night = ["--site", "home", "--date", "2026-01-10"]
STEPS = {
    "split_pcaps": ["--captures", captures, *night],
    "assemble_flows": night,
    "write_dataset": [*night, "--labels", labels, "--dataset", "full"],
}

def run(step, root, *settings):
    layers = ["--config", "local.yaml"]
    for text in (f"storage.root={root}", "spark.master=local[2]", "capture.split_bytes=400000", *settings):
        layers += ["--set", text]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            importlib.import_module(f"iotid.cli.{step}").main.main([*layers, *STEPS[step]], prog_name=step)
        except SystemExit as end:
            return {"code": end.code or 0, "said": [line for line in said.getvalue().splitlines() if "rror: " in line]}

def whole(root):
    return sorted(str(path.parent.relative_to(root)) for path in Path(root).rglob("_SUCCESS"))

def left(root):
    return sorted(str(path) for path in Path(root, "_staging").rglob("*") if path.is_file())

results = {}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=True)
root = f"{disk}/store"
for step in STEPS:
    if step != "split_pcaps":
        filler = Path(disk, "filler")
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 12)):
                pass
        with filler.open("rb+") as file:
            file.truncate(filler.stat().st_size - 40_960)  # some of it is written before the disk is full
        results[step] = {**run(step, root), "whole": whole(root), "left": left(root)}
        filler.unlink()
    results[f"{step} again"] = {**run(step, root), "whole": whole(root)}
print(json.dumps(results))
"""


@pytest.mark.spark
def test_full_disk__is_a_one_line_error_and_loses_nothing(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*_NAMESPACE, "true"], check=False).returncode != 0:
        pytest.skip("this machine lets no process mount a small disk of its own")
    write_demo(tmp_path / "demo")
    disk = tmp_path / "disk"
    disk.mkdir()
    captures = tmp_path / "demo" / "captures" / "home" / "2026-01-10"
    command = [*_NAMESPACE, sys.executable, "-c", _STEPS, disk, captures, tmp_path / "demo" / "devices.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    results = json.loads(ran.stdout.splitlines()[-1])
    places = [f"{table}/site=home/capture_date=2026-01-10" for table in ("flows", "splits")]
    for step, before in (("assemble_flows", places[1:]), ("write_dataset", places)):
        assert results[step]["code"] == 1, results
        assert [line[:28] for line in results[step]["said"]] == ["Error: the disk is full: fre"], results
        assert results[step]["whole"] == before
        assert results[step]["left"] == []
        assert results[f"{step} again"]["code"] == 0
    assert results["write_dataset again"]["whole"] == ["datasets/name=full", *places]
