"""Settings: layers, refusals and where every setting is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from iotid.config import Settings, conf_dir, load_settings, settings_hash
from iotid.errors import SettingError


def test_settings__base_holds_every_key_of_every_section_and_no_other() -> None:
    written: dict[str, set[str]] = {}
    for name in ("base.yaml", "promotion.yaml", "watchlist.yaml"):
        for section, keys in yaml.safe_load((conf_dir() / name).read_text()).items():
            assert section not in written, f"{section} is set in two default files"
            written[section] = set(keys)
    expected = {name: set(field.annotation.model_fields) for name, field in Settings.model_fields.items()}
    assert written == expected


def test_settings__every_key_of_base_has_a_comment() -> None:
    bare = [
        line
        for line in (conf_dir() / "base.yaml").read_text().splitlines()
        if re.match(r"  \w+:", line) and "#" not in line
    ]
    # a comment may stand on the line below where the value is long
    text = (conf_dir() / "base.yaml").read_text()
    assert [line for line in bare if not re.search(re.escape(line) + r"\n +#", text)] == []


@pytest.mark.parametrize("layer", ["local.yaml", "cluster.yaml", "paper.yaml"])
def test_settings__each_shipped_layer_loads(layer: str) -> None:
    load_settings([layer])


def test_settings__later_layers_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {epochs: 3, patience: 2}")
    (tmp_path / "b.yaml").write_text("training: {epochs: 4}")
    settings = load_settings([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["training.patience=5"])
    assert (settings.training.epochs, settings.training.patience) == (4, 5)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.epoch=3", "training.epoch: unknown setting; did you mean training.epochs?"),
        ("trainig.epochs=3", "trainig: unknown setting; did you mean training?"),
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1, got 0"),
        ("training.epochs=many", "training.epochs: Input should be a valid integer"),
        ("flow.length=payload", "flow.length: Input should be 'ip' or 'frame', got 'payload'"),
        ("dataset.validation=0.5", "dataset: train + validation must leave a test part below 1, got 1.3"),
        ("epochs=3", "--set epochs=3: must read section.key=value"),
        (
            "watchlist.labels=[{name: cam, from: 0.9, to: 0.8}]",
            "watchlist.labels.0: from must be at most to (0.8), got",
        ),
        (
            "watchlist.types=[cam, {name: cam, from: 2}]",
            "watchlist.types.1.from: Input should be less than or equal to",
        ),
        ("watchlist.types=[{name: cam, label: 2}]", "watchlist.types.0.label: unknown setting; conf/base.yaml lists"),
    ],
)
def test_settings__a_mistake_is_one_line_that_names_key_rule_and_value(override: str, told: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings([], [override])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings__a_missing_file_and_bad_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.yaml: cannot be read"):
        load_settings([tmp_path / "nowhere.yaml"])
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SettingError, match=r"bad\.yaml: is not valid YAML"):
        load_settings([tmp_path / "bad.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SettingError, match="must hold sections"):
        load_settings([tmp_path / "list.yaml"])


def test_settings__are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.training.epochs = 1  # type: ignore[misc]


def test_settings__relative_root_becomes_absolute_and_uris_stay() -> None:
    assert Path(load_settings([], ["storage.root=x"]).storage.root).is_absolute()
    assert load_settings([], ["storage.root=s3://bucket/x"]).storage.root == "s3://bucket/x"


def test_settings_hash__says_nothing_of_keys_and_pseudonyms_only_of_what_devices_are_taken_for() -> None:
    other = load_settings([], ["census.pseudonyms=on", "census.key_file=/secret"])
    assert (other.census.pseudonyms, other.census.key_file) == (True, "/secret")
    assert settings_hash(other.census) == settings_hash(load_settings().census)
    assert "secret" not in other.model_dump_json()


def test_settings_hash__changes_with_a_value_and_with_an_input_only() -> None:
    one, two = load_settings(), load_settings([], ["flow.max_packets=8"])
    assert settings_hash(one.flow) == settings_hash(load_settings().flow)
    assert settings_hash(one.flow) != settings_hash(two.flow)
    assert settings_hash(one.flow) != settings_hash(one.flow, extra={"file": "a"})


@pytest.mark.parametrize("name", ["tracking.uri", "storage.root"])
@pytest.mark.parametrize(
    "uri", ["https://ann:hunter2@mlflow.example", "postgresql://ann:hunter2@db/x", "s3://k:hunter2@b"]
)
def test_settings__a_password_in_a_location_is_refused_and_not_told(name: str, uri: str) -> None:
    with pytest.raises(SettingError, match=f"{name}: must not hold a password") as caught:
        load_settings(overrides=[f"{name}={uri}"])
    assert "hunter2" not in str(caught.value)
    load_settings(overrides=[f"{name}={uri.replace(':hunter2', '')}"])
