"""What docs/operations.md tells people to write and to run is accepted; links of pages that are mostly links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from iotid.cli import steps
from iotid.config import load_settings
from iotid.partitions import PartitionKey, Store

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^iotid (?:prune|relocate).*?(?=\s+#|$)", TEXT, re.MULTILINE)


def test_configuration__loads_over_that_of_a_cluster(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "our.yaml").write_text(text, encoding="utf-8")
    settings = load_settings(["cluster.yaml", str(tmp_path / "our.yaml")])
    assert settings.storage.root == "hdfs://head:8020/iotid"
    assert settings.training.ranks * settings.training.threads == 16
    assert settings.flow.idle_timeout_s == 600
    assert settings.spark.conf["spark.executor.memoryOverheadFactor"] == "0.4"


def test_commands__are_found() -> None:
    assert {line.split()[1] for line in COMMANDS} == {"prune", "relocate"}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands__are_accepted_as_written(line: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    with store.write("flows", PartitionKey.of_date("home", "2025-12-01")) as staged:
        staged.write_text("part.txt", "")
    arguments = [each for each in shlex.split(line)[1:] if each != "$S"]
    answer = CliRunner().invoke(steps, [*arguments, "--set", f"storage.root={store.root}"])
    expected, code = ("does not exist; name its root", 2) if "relocate" in line else ("partitions before", 0)
    assert expected in answer.output
    assert answer.exit_code == code


@pytest.mark.parametrize(
    "name",
    ["docs/operations.md", "docs/results/README.md", "docs/results/traffic.md", "docs/results/unlike.md", "RESULTS.md"],
)
def test_links__lead_to_pages_and_headings(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for page, _, heading in (link.partition("#") for link in re.findall(r"\]\((?!http)([^)]+)\)", text)):
        path = (ROOT / name).parent / page
        assert path.exists(), page
        if not heading:
            continue
        titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert heading in anchors, f"{page}#{heading}"


def test_results_by_question__link_every_page_of_results() -> None:
    folder = ROOT / "docs" / "results"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in folder.glob("*.md") if f"]({page.name}" not in text and page.name != "README.md"]
