"""Settings: layers, errors and base.yaml."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iotid import baselines, yaml12
from iotid.config import COMPARED, Model, Settings, conf_dir, load_settings, make_section, settings_hash
from iotid.dataset.characteristics import CHARACTERISTICS
from iotid.errors import SettingError
from iotid.studies import protocols
from iotid.studies.split_run import ETEI


def test_settings__base_has_exactly_the_keys_of_all_sections() -> None:
    written: dict[str, set[str]] = {}
    for name in ("base.yaml", "promotion.yaml", "watchlist.yaml"):
        for section, keys in yaml12.load((conf_dir() / name).read_text()).items():
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
    ("override", "expected"),
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
def test_settings__error_is_one_line_with_key_rule_and_value(override: str, expected: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings([], [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings__former_names_are_accepted_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.yaml").write_text("census: {likeness: 0.7}\nmodel: {memory: false}\n")
    settings = load_settings([tmp_path / "own.yaml"], ["evaluation.further_baselines=[byteiot]"])
    assert settings.census.min_similarity == 0.7
    assert not settings.model.sequence_counts
    assert settings.evaluation.packet_baselines == ("byteiot",)
    assert "own.yaml: census.likeness is now census.min_similarity" in caplog.text
    assert len(caplog.records) == 3
    stored = {**settings.model.model_dump(), "memory": True}
    del stored["sequence_counts"]
    assert make_section(Model, stored).sequence_counts, "models keep their settings by the former name"


def test_settings__missing_file_and_invalid_yaml_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.yaml: cannot be read"):
        load_settings([tmp_path / "nowhere.yaml"])
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SettingError, match=r"bad\.yaml: is not valid YAML"):
        load_settings([tmp_path / "bad.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SettingError, match="must contain sections"):
        load_settings([tmp_path / "list.yaml"])


@pytest.mark.parametrize("text", ["flow: {tcp_close: true}\nmodel: {layers: 1}\nflow: {join_files: true}\n"])
def test_settings__duplicate_section_is_an_error_with_both_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(SettingError, match=r"twice\.yaml: .*'flow' in line 1, .* in line 3"):
        load_settings([tmp_path / "twice.yaml"])


def test_settings__value_that_yaml_would_truncate_is_refused_with_its_quoted_form() -> None:
    with pytest.raises(SettingError, match=r"quote it: --set 'storage.root=\"/data/run #2\"'$"):
        load_settings([], ["storage.root=/data/run #2"])
    assert load_settings([], ['storage.root="/data/run #2"']).storage.root == "/data/run #2"
    with pytest.raises(SettingError) as caught:
        load_settings([], ["tracking.uri=https://ann:hunter2@x #y"])
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingError) as caught:
        load_settings([], ["census.key_file=8123"])
    assert "8123" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("census.inside=[192.168.1.5/24]", "did you mean 192.168.1.0/24?"),
        ("census.inside=['fe80::1/10']", "did you mean fe80::/10?"),
        ("census.inside=[10.0.0.0/33]", "write networks as 192.168.0.0/16"),
        ("census.inside=['::ffff:10.0.0.0/104']", "contains no address that packets can have"),
        ("census.inside=['fe80::%eth0/64']", "write networks as"),
        ("census.inside=10.0.0.0/8", "must be a list, got '10.0.0.0/8'; write it as [a, b]"),
        ("census.inside=[]", "at least 1"),
        (
            "dataset.characteristics=[tcp_windw]",
            "characteristics.0: 'tcp_windw' is not known; did you mean tcp_window?",
        ),
        ("dataset.characteristics=[tcp_window, tcp_window]", "'tcp_window' is listed twice"),
        ("dataset.protocols=[256]", "dataset.protocols.0"),
        (
            "evaluation.baselines=[random_forrest]",
            "baselines.0: 'random_forrest' is not known; did you mean random_forest?",
        ),
        ("evaluation.packet_baselines=[oracle]", "'oracle' is not known; choose from pinheiro_knn, "),
        ("evaluation.protocols=[by_tme]", "'by_tme' is not known; did you mean by_time?"),
        ("evaluation.protocols=[x]", "'x' is not known; choose from random_flow"),
        ("evaluation.protocols=['site:']", "did you mean site:NAME?"),
        ("spark.master=local[many]", "must be local, local[CORES]"),
        ("tracking.model=a/b", "tracking.model"),
        ("tracking.experiment=2024", "Input should be a valid string, got 2024; put text in quotes"),
    ],
)
def test_settings__errors_of_later_steps_are_found_when_settings_are_read(override: str, expected: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings([], [override])
    assert expected in str(caught.value)
    assert " | " not in str(caught.value)


def test_settings__accepted_names_are_those_of_the_registries() -> None:
    schema = Settings.model_json_schema()["$defs"]

    def taken(section: str, key: str) -> list[str]:
        return list(schema[section]["properties"][key]["items"]["enum"])

    assert taken("Dataset", "characteristics") == list(CHARACTERISTICS)
    assert taken("Evaluation", "baselines") == baselines.names()
    assert taken("Evaluation", "capture_baselines") == list(baselines.capture_baselines(1))
    assert taken("Evaluation", "packet_baselines") == [*baselines.window_baselines(1), ETEI]
    of_studies = (protocols.FOLDS, protocols.ACROSS, protocols.DRIFT, protocols.DEVICES_OUT)
    assert {*COMPARED} == {*protocols.OF_DATASET, *of_studies}


@pytest.mark.parametrize(("given", "value"), [("on", True), ("Off", False), ("yes", True), ("true", True)])
def test_settings__switches_accept_yes_no_on_off(given: str, value: bool) -> None:
    assert load_settings([], [f"capture.strict={given}"]).capture.strict is value


@pytest.mark.parametrize(
    ("given", "value"),
    [("on", "opaque"), ("yes", "opaque"), ("true", "opaque"), ("opaque", "opaque"), ("prefixes", "prefixes"),
     ("off", "off"), ("No", "off"), ("false", "off")],
)  # fmt: skip
def test_settings__pseudonyms_on_means_opaque(given: str, value: str) -> None:
    assert load_settings([], [f"census.pseudonyms={given}"]).census.pseudonyms == value


@pytest.mark.parametrize("given", ["1", "prefix", "[on]", "null"])
def test_settings__other_pseudonyms_are_refused(given: str) -> None:
    with pytest.raises(SettingError, match=r"census\.pseudonyms: Input should be 'off', 'opaque' or 'prefixes', got"):
        load_settings([], [f"census.pseudonyms={given}"])


def test_settings__names_are_normalised_to_nfc() -> None:
    changes = ["watchlist.labels=[Ku\u0308che]", "promotion.min_recall={Ku\u0308che: 0.5}"]
    settings = load_settings([], changes)
    assert settings.watchlist.labels[0].name == "K\u00fcche"
    assert list(settings.promotion.min_recall) == ["K\u00fcche"]


def _leaves(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every setting, ``section.key``, with the schema of its value, but for null."""
    for section, reference in schema["properties"].items():
        own = schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"]
        for key, value in own.items():
            kinds = [kind for kind in value.get("anyOf", [value]) if kind.get("type") != "null"]
            yield f"{section}.{key}", kinds[0]


LEAVES = dict(_leaves(Settings.model_json_schema()))
BOUNDED = {name: kind for name, kind in LEAVES.items() if kind.get("type") in ("integer", "number")}
# settings that another one bounds closer, given with it
WITH = {
    "dataset.train": ["dataset.validation=1e-9"],
    "dataset.validation": ["dataset.train=1e-9"],
}


def _bounds(kind: dict[str, Any]) -> Iterator[tuple[float, bool]]:
    """Values at, just inside and just outside of every bound, and whether each is taken."""
    step = (lambda value, to: value + math.copysign(1, to)) if kind["type"] == "integer" else _next
    for name, inwards in (("minimum", 1.0), ("maximum", -1.0)):
        if name in kind:
            yield from ((kind[name], True), (step(kind[name], inwards), True), (step(kind[name], -inwards), False))
        if (exclusive := f"exclusive{name.title()}") in kind:
            at = kind[exclusive]
            yield from ((at, False), (step(at, -inwards), False), (at + inwards * 1e-6, True))


def _next(value: float, to: float) -> float:
    return math.nextafter(value, math.copysign(math.inf, to))


@pytest.mark.parametrize("name", BOUNDED)
def test_settings__numbers_out_of_bounds_or_of_another_type_are_refused(name: str) -> None:
    kind = BOUNDED[name]
    for value, taken in _bounds(kind):
        number = int(value) if kind["type"] == "integer" else value
        override = f"{name}={json.dumps(number)}"
        if taken:
            settings = load_settings([], [*WITH.get(name, []), override])
            section, key = name.split(".")
            assert getattr(getattr(settings, section), key) == number
        else:
            with pytest.raises(SettingError, match=rf"{name}: Input should be (greater|less) than"):
                load_settings([], [override])
    for other in ("true", "'3'", "1:30", "yes", ".nan", ".inf", "[3]", *(["3.5"] if kind["type"] == "integer" else [])):
        with pytest.raises(SettingError, match=f"{name}: "):
            load_settings([], [f"{name}={other}"])


_LONG = "x" * 10**5
_NESTED = "a0: &a0 [x, x, x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        _NESTED,
        "training: " + "[" * 10**5,
        f"{_LONG}: {{}}",
        f"training: {{{_LONG}: 1}}",
        f"training: {{epochs: {_LONG}}}",
        f"training: {{epochs: -{'9' * 99}}}",
        f"training: [{'a,' * 10**4}]",
        f"dataset: {{characteristics: [{'a,' * 10**4}]}}",
        f"dataset: {{characteristics: [{_LONG}]}}",
        f"census: {{inside: [{_LONG}]}}",
        f"evaluation: {{protocols: [{_LONG}]}}",
        f"storage: {{root: [{'[a],' * 10**3}]}}",
        f"spark: {{master: {_LONG}}}",
        f"watchlist: {{labels: [{'{a: 1},' * 10**4}]}}",
        f"promotion: {{min_recall: {{{_LONG}: 2}}}}",
        "1: 2",
        "{training: {1: 2, null: 3, 1.5: 1}}",
        "- " + _LONG,
        "\n".join(f"k{n}: 1" for n in range(10**4)),
        "#" * (1 << 20) + "\n",
    ],
    ids=range(20),
)
def test_settings__huge_or_long_input_is_a_short_one_line_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SettingError) as raised:
        load_settings([path])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 3000


def test_settings__error_of_a_long_override_is_short() -> None:
    for override in (
        f"training.epochs={_LONG}",
        f"{_LONG}.epochs=1",
        _LONG,
        f"training.epochs='{_LONG}",
        f"a.b=[{_LONG}",
    ):
        with pytest.raises(SettingError) as raised:
            load_settings([], [override])
        assert len(str(raised.value)) < 700


# what each bounded setting was meant to take, written down a second time
MEANT = {
    "spark.shuffle_partitions": (1, None), "spark.in_process_bytes": (0, None), "spark.in_process_flows": (0, None),
    "capture.chunk_bytes": (4096, None), "capture.split_bytes": (4096, None),
    "capture.task_bytes": (1, None), "capture.max_packet_bytes": (64, 2**30), "capture.max_expansion": (1, None),
    "capture.max_expanded_bytes": (1, None), "capture.duplicate_window_us": (0, None),
    "capture.duplicate_records": (1, 65536), "capture.fragment_window_us": (1, None),
    "capture.fragment_records": (0, 65536), "capture.max_tunnels": (0, 16), "flow.max_packets": (1, 4096),
    "flow.idle_timeout_s": ((0,), None), "flow.active_timeout_s": ((0,), None), "flow.keep_bytes": (0, 65535),
    "flow.keep_packets": (1, 4096), "dataset.min_flows": (1, None), "dataset.train": ((0,), (1,)),
    "dataset.validation": ((0,), (1,)), "dataset.seed": (0, 2**32 - 1), "dataset.row_groups": (1, None),
    "dataset.sets": (1, None), "dataset.min_count": (1, None), "model.embedding_size": (1, 16384),
    "model.hidden_size": (1, 16384), "model.layers": (1, 64), "model.dropout": (0, (1,)), "training.ranks": (1, None),
    "training.epochs": (1, None), "training.patience": (1, None), "training.batch_size": (1, None),
    "training.learning_rate": ((0,), None), "training.repeat_weight": (0, 1), "training.threads": (1, None),
    "training.checkpoint_minutes": (0, None), "training.kept_answers_mb": (0, 1024),
    "training.seed": (0, 2**32 - 1), "evaluation.folds": (3, None),
    "evaluation.drift_days": (1, None), "evaluation.left_out_groups": (2, None), "evaluation.etei_epochs": (1, None),
    "evaluation.household_folds": (2, None), "evaluation.household_merges": (0, None),
    "evaluation.bootstrap": (0, None), "evaluation.seed": (0, 2**32 - 1), "census.batch_rows": (1, None),
    "census.min_flows": (1, None), "census.min_evidence": (1, None), "census.min_confidence": (0, 1),
    "census.min_similarity": ((0,), 1),
    "census.remember_days": (1, None), "census.page_rows": (1, None),
    "promotion.min_macro_f1": (0, 1), "promotion.macro_f1_margin": (-1, 1),
    "promotion.max_recall_drop": (0, 1), "promotion.min_support": (1, None), "promotion.max_calibration_error": (0, 1),
    "promotion.max_calibration_rise": (0, 1),
}  # fmt: skip


def test_settings__bounds_equal_the_intended_ones() -> None:
    def bound(kind: dict[str, Any], name: str) -> Any:
        return (kind[f"exclusive{name.title()}"],) if f"exclusive{name.title()}" in kind else kind.get(name)

    found = {name: (bound(kind, "minimum"), bound(kind, "maximum")) for name, kind in BOUNDED.items()}
    assert found == MEANT


@pytest.mark.parametrize(
    "name", [name for name, kind in LEAVES.items() if kind.get("type") not in ("integer", "number")]
)
def test_settings__switches_texts_and_lists_refuse_numbers(name: str) -> None:
    with pytest.raises(SettingError, match=name):
        load_settings([], [f"{name}=3"])


def test_settings__splits_must_leave_one_to_test_and_kept_bytes_need_kept_packets() -> None:
    for shares, taken in ((("0.5", "0.49999"), True), (("0.5", "0.5"), False)):
        changes = [f"dataset.{key}={share}" for key, share in zip(("train", "validation"), shares, strict=True)]
        assert _is_taken(changes) is taken
    for packets, kept, size in itertools.product((4,), (4, 5), (0, 1)):
        changes = [f"flow.max_packets={packets}", f"flow.keep_packets={kept}", f"flow.keep_bytes={size}"]
        assert _is_taken(changes) is (kept <= packets or not size)


def _is_taken(changes: list[str]) -> bool:
    try:
        load_settings([], changes)
    except SettingError:
        return False
    return True


def test_settings__are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.training.epochs = 1  # type: ignore[misc]


def test_settings__relative_root_becomes_absolute_and_uris_stay() -> None:
    assert Path(load_settings([], ["storage.root=x"]).storage.root).is_absolute()
    assert load_settings([], ["storage.root=s3://bucket/x"]).storage.root == "s3://bucket/x"


def test_settings_hash__does_not_depend_on_keys_and_pseudonyms() -> None:
    other = load_settings([], ["census.pseudonyms=on", "census.key_file=/hunter2"])
    assert (other.census.pseudonyms, other.census.key_file) == ("opaque", "/hunter2")
    assert settings_hash(other.census) == settings_hash(load_settings().census)
    assert "hunter2" not in other.model_dump_json()


def test_settings_hash__changes_with_a_value_and_with_an_input_only() -> None:
    one, two = load_settings(), load_settings([], ["flow.max_packets=8"])
    assert settings_hash(one.flow) == settings_hash(load_settings().flow)
    assert settings_hash(one.flow) != settings_hash(two.flow)
    assert settings_hash(one.flow) != settings_hash(one.flow, extra={"file": "a"})
