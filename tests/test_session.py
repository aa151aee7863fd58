"""What the session takes from spark-submit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.spark


def test_spark_session__what_spark_submit_was_told_wins_over_the_settings(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from iotid.config import load_settings\nfrom iotid.session import spark_session\n"
        "told = spark_session(load_settings(['local.yaml']).spark, 'from settings').sparkContext\n"
        "Path(sys.argv[1]).write_text(f'{told.master} {told.appName}')\n",
        encoding="utf-8",
    )
    # spark-submit finds Spark through the first python3 on the PATH
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = ["--master", "local[1]", "--name", "submitted", "--conf", f"spark.pyspark.python={sys.executable}"]
    command = ["spark-submit", *options, program, tmp_path / "told"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / "told").read_text(encoding="utf-8") == "local[1] submitted"
