"""The JSON schema of settings files, and shell completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from iotid import yaml12
from iotid.cli.settings_schema import schema
from iotid.config import DEFAULT_LAYERS, Settings, conf_dir

HEAVY = ["pyspark", "torch", "mlflow", "petastorm", "numba", "numpy", "pyarrow", "pandas", "sklearn", "scapy"]


def _faults(value: Any, rule: dict[str, Any], root: dict[str, Any], place: str = "") -> Iterator[str]:
    """The paths at which a value violates the schema; implements the part of JSON Schema that is used."""
    rule = root["$defs"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
    if "anyOf" in rule and all(any(_faults(value, one, root, place)) for one in rule["anyOf"]):
        yield place
    kinds = {
        "string": str, "integer": int, "number": int | float, "boolean": bool, "null": type(None), "array": list,
        "object": dict,
    }  # fmt: skip
    if "type" in rule:
        is_switch = isinstance(value, bool)
        if not isinstance(value, kinds[rule["type"]]) or is_switch is not (rule["type"] == "boolean"):
            yield place
            return
    if "enum" in rule and value not in rule["enum"]:
        yield place
    if value < rule.get("minimum", value) if isinstance(value, int | float) else False:
        yield place
    for item in value if isinstance(value, list) else ():
        yield from _faults(item, rule.get("items", {}), root, place)
    if isinstance(value, dict):
        yield from (f"{place}.{key} is missing" for key in rule.get("required", ()) if key not in value)
        for key, own in value.items():
            further = rule.get("additionalProperties", True)
            known = rule.get("properties", {}).get(key, {} if further is True else further)
            yield from [f"{place}.{key}"] if known is False else _faults(own, known, root, f"{place}.{key}")


@pytest.mark.parametrize("layer", [*DEFAULT_LAYERS, "local.yaml", "cluster.yaml", "paper.yaml"])
def test_schema__accepts_every_shipped_settings_file(layer: str) -> None:
    assert list(_faults(yaml12.load((conf_dir() / layer).read_text()), schema(), schema())) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("trainig: {}", ".trainig"),
        ("training: {epoch: 3}", ".training.epoch"),
        ("training: {epochs: 0}", ".training.epochs"),
        ("training: {epochs: true}", ".training.epochs"),
        ("flow: {length: payload}", ".flow.length"),
        ("flow: {idle_timeout_s: 1:30}", ".flow.idle_timeout_s"),
        ("dataset: {characteristics: [windows]}", ".dataset.characteristics"),
        ("watchlist: {labels: [{from: 0.5}]}", ".watchlist.labels"),
    ],
)
def test_schema__reports_the_path_of_an_error(text: str, place: str) -> None:
    assert place in list(_faults(yaml12.load(text), schema(), schema()))


def test_schema__requires_no_key_and_describes_all() -> None:
    whole = schema()
    assert list(_faults({}, whole, whole)) == []
    assert list(_faults({"watchlist": {"labels": ["cam", {"name": "cam", "from": 0.5}]}}, whole, whole)) == []
    bare = set()
    for section, reference in whole["properties"].items():
        own = whole["$defs"][reference["$ref"].rpartition("/")[2]]
        assert list(own["properties"]) == list(Settings.model_fields[section].annotation.model_fields)
        assert "required" not in own
        bare |= {f"{section}.{key}" for key, value in own["properties"].items() if not value.get("description")}
    assert bare == {"watchlist.labels", "watchlist.vendors", "watchlist.types"}, "the file's head tells of them"
    described = whole["$defs"]["Flow"]["properties"]["idle_timeout_s"]["description"]
    assert described.startswith("a longer gap ends a flow; null: never")
    assert described.endswith("is then one flow per date")


def _run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    loaded = f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    program = f"import sys; sys.argv[0] = 'iotid'; from iotid.cli import main\ntry: {code}\nfinally: {loaded}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **env})


def test_settings_schema__is_printed_without_heavy_imports() -> None:
    result = _run("sys.argv.append('settings-schema'); main()")
    assert json.loads(result.stdout) == schema()
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion__there_is_a_script_for_every_shell(shell: str) -> None:
    result = _run("main()", _IOTID_COMPLETE=f"{shell}_source")
    assert f"_IOTID_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("iotid t", {"plain,train", "plain,take-census", "plain,take-network-census"}),
        ("iotid train --d", {"plain,--dataset"}),
        ("iotid train --config lo", {"file,lo"}),
        ("iotid run --labels lo", {"file,lo"}),
        ("iotid run --captures lo", {"file,lo"}),
    ],
)
def test_completion__offers_commands_options_and_files_without_heavy_imports(words: str, wanted: set[str]) -> None:
    place = str(len(words.split()) - 1)
    result = _run("main()", _IOTID_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    assert set(result.stdout.split()) == wanted
    assert result.stderr.strip() == "[]"
