"""Settings: YAML layers merged into frozen sections. An unknown key, a wrong type or a value out of range is an error.

``conf/base.yaml`` has every setting once with its unit and reason; there are no defaults in Python. A function gets
the section that it needs, never all settings.
"""

from __future__ import annotations

import atexit
import difflib
import hashlib
import ipaddress
import json
import logging
import re
import shlex
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from iotid import yaml12
from iotid.errors import SettingError, short_repr, shorten
from iotid.inputs import read_file
from iotid.messages import NO_CREDENTIALS, holds_credentials, names_secret, redacted_location

DEFAULT_LAYERS = ("base.yaml", "promotion.yaml", "watchlist.yaml")
_log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20  # of a file of settings
_MAX_LISTED = 10  # that one error lists


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _check_credentials(cls, given: Any) -> Any:
        """Logs, tracking and metadata show settings, so a location must not contain a secret."""
        for path, text in _iter_texts(given):
            if holds_credentials(text):
                found = {"path": ".".join(path), "got": redacted_location(text)}
                raise PydanticCustomError(_CREDENTIALS_ERROR, NO_CREDENTIALS, found)
        return given


def _iter_texts(given: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every nested text, including keys, with its path."""
    if isinstance(given, str):
        yield path, given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from _iter_texts(str(key), path)
            yield from _iter_texts(value, (*path, str(key)))
    elif isinstance(given, list | tuple):
        for index, value in enumerate(given):
            yield from _iter_texts(value, (*path, str(index)))


def _yes_no(given: Any) -> Any:
    """on, yes, off and no as booleans: text in YAML 1.2, accepted for switches only."""
    words = {"on": True, "yes": True, "off": False, "no": False}
    return words.get(given.lower(), given) if isinstance(given, str) else given


def _parse_pseudonyms(given: Any) -> Any:
    word = _yes_no(given)
    return ("off", "opaque")[word] if isinstance(word, bool) else given


def _octal_text(given: Any) -> Any:
    """YAML 1.2 reads 022 as the number 22; restore the digits."""
    return f"{given:03d}" if type(given) is int else given


def to_nfc(text: str) -> str:
    """The text in Unicode's composed form (NFC), so that names that look equal are equal."""
    return unicodedata.normalize("NFC", text)


def _check_unique(given: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in given:
        if given.count(value) > 1:
            raise ValueError(f"{short_repr(value)} is listed twice; list each once")
    return given


def _check_network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
        if "%" in text or (network.version == 6 and network.network_address.ipv4_mapped):
            raise ValueError(f"{short_repr(text)} contains no address that packets can have")
    except ValueError as fault:
        raise ValueError(f"{shorten(str(fault))}; write networks as 192.168.0.0/16 or fc00::/7") from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{short_repr(text)} is an address within a network, not a network; did you mean {network}?")
    return text


def _check_master(master: str) -> str:
    numbers = r"(\*|[1-9]\d*)(\s*,\s*[1-9]\d*)?"
    if not re.fullmatch(rf"local(\[{numbers}\])?|local-cluster\[.+\]|yarn|(spark|k8s)://.+", master):
        raise ValueError("must be local, local[CORES], local[*], yarn, spark://HOST:PORT or k8s://URL")
    return master


def _check_protocol(name: str) -> str:
    if name not in COMPARED and not re.fullmatch(r"site:[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("; ".join(_unknown_choice(name, [*COMPARED, "site:NAME"])))
    return name


def _unknown_choice(name: Any, known: list[str]) -> tuple[str, str]:
    close = difflib.get_close_matches(shorten(str(name)), known, n=1)
    return (
        f"{short_repr(name)} is not known",
        f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}",
    )


_CREDENTIALS_ERROR = "credentials_in_location"
_RENAMED = {  # settings renamed since version 0.1; the former names are accepted for one version
    "census.likeness": "min_similarity",
    "evaluation.further_baselines": "packet_baselines",
    "model.memory": "sequence_counts",
}
COMPARED = ("random_flow", "random_unique", "by_capture", "by_time", "capture_folds", "drift", "devices_out")
"""Split protocols of ``iotid compare``, besides ``site:NAME``."""
_Switch = Annotated[bool, BeforeValidator(_yes_no)]
_Pseudonyms = Literal["off", "opaque", "prefixes"]
_Name = Annotated[str, AfterValidator(to_nfc), Field(min_length=1)]  # of a label, vendor or type
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # the range of NumPy's and scikit-learn's generators
# names in the registries of dataset/characteristics and baselines; tests compare them
_Characteristic = Literal[
    "packet_length", "tcp_window", "direction", "inter_arrival", "tcp_flags", "payload_length"
]  # fmt: skip
_Baseline = Literal["majority_sequence", "sequence_knn", "random_forest"]
_PacketBaseline = Literal[
    "pinheiro_knn", "pinheiro_tree", "pinheiro_forest", "pinheiro_svm", "pinheiro_vote", "byteiot", "etei"
]  # fmt: skip


S = TypeVar("S", bound=_Section)


class Storage(_Section):
    root: str = Field(min_length=1)
    umask: Annotated[str, BeforeValidator(_octal_text), Field(pattern=r"^0[027][027]$")]


class Spark(_Section):
    master: Annotated[str, AfterValidator(_check_master)]
    driver_memory: str = Field(pattern=r"^\d+[kmgt]$")
    shuffle_partitions: int = Field(ge=1)
    conf: dict[str, str]


class Capture(_Section):
    strict: _Switch
    unreadable: Literal["fail", "quarantine"]
    chunk_bytes: int = Field(ge=4096)
    split_bytes: int = Field(ge=4096)
    task_bytes: int = Field(ge=1)
    max_packet_bytes: int = Field(ge=64, le=2**30)
    max_expansion: int = Field(ge=1)
    max_expanded_bytes: int = Field(ge=1)
    duplicate_window_us: int = Field(ge=0)
    duplicate_records: int = Field(ge=1, le=65536)
    fragment_window_us: int = Field(ge=1)
    fragment_records: int = Field(ge=0, le=65536)
    tunnels: tuple[Literal["gre", "ip_in_ip", "6in4", "vxlan", "geneve", "gtp_u", "capwap", "tzsp"], ...]
    max_tunnels: int = Field(ge=0, le=16)


class Flow(_Section):
    max_packets: int = Field(ge=1, le=4096)
    idle_timeout_s: float | None = Field(gt=0)
    active_timeout_s: float | None = Field(gt=0)
    tcp_close: _Switch
    length: Literal["ip", "frame"]
    join_files: _Switch
    keep_bytes: int = Field(ge=0, le=65535)
    keep_packets: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _check_keep_packets(self) -> Flow:
        if self.keep_bytes > 0 and self.keep_packets > self.max_packets:
            raise ValueError(
                f"keep_packets must be at most max_packets ({self.max_packets}) where keep_bytes is set, "
                f"got {self.keep_packets}"
            )
        return self


class Dataset(_Section):
    characteristics: Annotated[tuple[_Characteristic, ...], AfterValidator(_check_unique)] = Field(min_length=1)
    protocols: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=1)
    label: Literal["name", "model", "type"]
    unlisted: Literal["drop", "unknown"]
    min_flows: int = Field(ge=1)
    protocol: Literal["random_flow", "random_unique", "by_capture", "by_time"]
    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    seed: _Seed
    unique: _Switch
    row_groups: int = Field(ge=1)
    sets: int = Field(ge=1)
    min_count: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_test_share(self) -> Dataset:
        if self.train + self.validation >= 1:
            raise ValueError(f"train + validation must leave a test part below 1, got {self.train + self.validation}")
        return self


class Model(_Section):
    embedding_size: int = Field(ge=1, le=16384)
    hidden_size: int = Field(ge=1, le=16384)
    layers: int = Field(ge=1, le=64)
    dropout: float = Field(ge=0, lt=1)
    fusion: Literal["concatenate", "sequence"]
    readout: Literal["mean", "last"]
    padding: Literal["ignored", "zeros"]
    sequence_counts: _Switch


class Training(_Section):
    ranks: int = Field(ge=1)
    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    repeat_weight: float = Field(ge=0, le=1)
    class_weight: Literal["none", "sqrt", "balanced"]
    calibration: Literal["none", "temperature", "classes"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: int = Field(ge=1)
    checkpoint_minutes: float = Field(ge=0)
    seed: _Seed


class Evaluation(_Section):
    baselines: Annotated[tuple[_Baseline, ...], AfterValidator(_check_unique)]
    packet_baselines: Annotated[tuple[_PacketBaseline, ...], AfterValidator(_check_unique)]
    protocols: Annotated[tuple[Annotated[str, AfterValidator(_check_protocol)], ...], AfterValidator(_check_unique)] = (
        Field(min_length=1)
    )
    folds: int = Field(ge=3)
    drift_days: int = Field(ge=1)
    left_out_groups: int = Field(ge=2)
    etei_epochs: int = Field(ge=1)
    household_folds: int = Field(ge=2)
    household_merges: int = Field(ge=0)
    bootstrap: int = Field(ge=0)
    seed: _Seed


class Tracking(_Section):
    uri: str | None
    experiment: str = Field(min_length=1)
    model: str = Field(pattern=r"^[^/:]*[^/:\s][^/:]*$")  # MLflow's rule for model names


class Census(_Section):
    batch_rows: int = Field(ge=1)
    min_flows: int = Field(ge=1)
    min_evidence: int = Field(ge=1)
    min_confidence: float = Field(ge=0, le=1)
    behind: Literal["auto", "hosts", "households"]
    min_similarity: float = Field(gt=0, le=1)
    remember_days: int = Field(ge=1)
    inside: tuple[Annotated[str, AfterValidator(_check_network)], ...] = Field(min_length=1)
    # excluded from dumps and hashes: they change only what is shown and under which names
    page_rows: int = Field(ge=1, exclude=True)
    pseudonyms: Annotated[
        _Pseudonyms, BeforeValidator(_parse_pseudonyms, json_schema_input_type=bool | Literal["on", _Pseudonyms])
    ] = Field(exclude=True)
    key_file: str | None = Field(exclude=True)


class Promotion(_Section):
    min_macro_f1: float = Field(ge=0, le=1)
    macro_f1_margin: float = Field(ge=-1, le=1)
    margin_judged_by: Literal["difference", "lower_bound"]
    min_recall: dict[_Name, Annotated[float, Field(ge=0, le=1)]]
    max_recall_drop: float = Field(ge=0, le=1)
    min_support: int = Field(ge=1)
    max_calibration_error: float | None = Field(ge=0, le=1)
    max_calibration_rise: float | None = Field(ge=0, le=1)


def _allow_plain_name(schema: dict[str, Any]) -> None:
    entry = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "minLength": 1}, entry]


class Watched(_Section):
    """An entry of the watch list: a name, or a name with the bounds of the confidences at which it counts."""

    model_config = ConfigDict(json_schema_extra=_allow_plain_name)

    name: _Name
    lowest: float = Field(0, alias="from", ge=0, le=1)
    highest: float = Field(1, alias="to", ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _from_plain_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_bounds(self) -> Watched:
        if self.lowest > self.highest:
            raise ValueError(f"from must be at most to ({self.highest}), got {self.lowest}")
        return self


class Watchlist(_Section):
    labels: tuple[Watched, ...]
    vendors: tuple[Watched, ...]
    types: tuple[Watched, ...]
    fail: _Switch


class Settings(_Section):
    """All sections; ``conf/base.yaml`` explains each key."""

    storage: Storage
    spark: Spark
    capture: Capture
    flow: Flow
    dataset: Dataset
    model: Model
    training: Training
    evaluation: Evaluation
    tracking: Tracking
    census: Census
    promotion: Promotion
    watchlist: Watchlist


def conf_dir() -> Path:
    """The folder of the YAML files: inside an installed wheel, or beside the package in a source tree."""
    packaged = package_dir() / "conf"
    return packaged if packaged.is_dir() else package_dir().parent / "conf"


@cache
def package_dir() -> Path:
    """The folder of the package's files; an unpacked copy if the package is in a zip (spark-submit --py-files)."""
    here = Path(__file__).parent
    if here.is_dir():
        return here
    copy = tempfile.TemporaryDirectory(prefix="iotid-")
    atexit.register(copy.cleanup)
    with zipfile.ZipFile(here.parent) as archive:
        archive.extractall(copy.name)
    return Path(copy.name, here.name)


def load_settings(files: Iterable[str | Path] = (), overrides: Iterable[str] = ()) -> Settings:
    """Settings from the defaults, then ``files`` in order, then ``section.key=value`` overrides.

    A file is a path, or the bare name of one in ``conf/`` (``local.yaml``). Relative storage roots become absolute, so
    that no later step depends on the current folder.

    Raises:
        SettingError: a file is missing or not YAML; a key is unknown; a value has the wrong type or range.
    """
    merged: dict[str, Any] = {}
    for name in DEFAULT_LAYERS:
        _merge(merged, _read_yaml(conf_dir() / name))
    for given in map(Path, files):
        shipped = conf_dir() / given
        layer = _read_yaml(shipped if shipped.is_file() and not given.exists() else given)
        _merge(merged, _apply_renames(layer, f"--config {given}"))
    for override in overrides:
        _merge(merged, _apply_renames(_parse_override(override), f"--set {shorten(override)}"))
    try:
        settings = Settings.model_validate(_with_tuples(merged), strict=True)  # true is not a number, 8 not text
    except ValidationError as fault:
        raise SettingError(_error_text(fault)) from None
    root = settings.storage.root
    if "://" not in root:
        root = str(Path(root).expanduser().resolve())
    return settings.model_copy(update={"storage": with_values(settings.storage, root=root)})


def with_values(section: S, **values: Any) -> S:
    """A copy of the section with other values, validated.

    Raises:
        SettingError: a value has the wrong type or range.
    """
    return make_section(type(section), {**dict(section), **values})


def make_section(kind: type[S], values: Mapping[str, Any]) -> S:
    """The section with these values, validated.

    Raises:
        SettingError: a value is missing, or has the wrong type or range.
    """
    name = kind.__name__.lower()
    values = {_RENAMED.get(f"{name}.{key}", key): value for key, value in values.items()}
    try:
        return kind.model_validate(_with_tuples(values), strict=True)
    except ValidationError as fault:
        raise SettingError(_error_text(fault, (name,))) from None


def settings_hash(*sections: BaseModel, extra: Mapping[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits that identify the settings, and the inputs in ``extra``, of a result."""
    parts: list[Any] = [{type(section).__name__: section.model_dump(mode="json")} for section in sections]
    parts.append(dict(extra or {}))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _apply_renames(layer: dict[str, Any], source: str) -> dict[str, Any]:
    """The layer with renamed settings under their present names."""
    renamed = dict(layer)
    for old, new in _RENAMED.items():
        section, _, key = old.partition(".")
        values = renamed.get(section)
        if isinstance(values, Mapping) and key in values and new not in values:
            _log.warning(
                "%s: %s is now %s.%s; the next version will not accept the old name", source, old, section, new
            )
            renamed[section] = {new if name == key else name: value for name, value in values.items()}
    return renamed


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml12.load(read_file(path, _MAX_BYTES).decode())
    except OSError as fault:
        raise SettingError(f"--config {path}: cannot be read ({fault.strerror}); give a YAML file") from None
    except ValueError as fault:
        raise SettingError(f"--config {path}: is not valid YAML ({fault}); correct the file") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(
            f"--config {path}: must contain sections (name: {{key: value}}), got {type(content).__name__}"
        )
    return content


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise SettingError(f"--set {shorten(text)}: must read section.key=value, as in training.epochs=10")
    if name == "spark.conf" and names_secret(value):
        raise SettingError(
            "--set spark.conf: names a secret, which the list of processes would show; set it in a file for --config"
        )
    if holds_credentials(value):
        raise SettingError(f"--set {shorten(name)}: {NO_CREDENTIALS}, got {shorten(redacted_location(value))}")
    try:
        return {section: {key: yaml12.load_value(value)}}
    except ValueError as fault:
        quoted = shorten(shlex.quote(f"{name}={json.dumps(value, ensure_ascii=False)}"))
        raise SettingError(
            f"--set {shorten(text)}: the value is not valid YAML ({fault}); quote it: --set {quoted}"
        ) from None


def _with_tuples(value: Any) -> Any:
    """The same value with tuples in place of lists, which sections need to be frozen."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for section, values in layer.items():
        if isinstance(values, Mapping) and isinstance(into.get(section), dict):
            into[section].update(values)
        else:
            into[section] = dict(values) if isinstance(values, Mapping) else values


def _error_text(fault: ValidationError, within: tuple[str, ...] = ()) -> str:
    lines = []
    errors = fault.errors()[:_MAX_LISTED]
    for error in errors:
        path = [shorten(str(part)) for part in (*within, *error["loc"])]
        if error["type"] == _CREDENTIALS_ERROR:
            name = ".".join([*path, error["ctx"]["path"]])
            lines.append(f"{name}: {error['msg']}, got {error['ctx']['got']}")
            continue
        name = ".".join(path)
        if error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(path[-1], _sibling_keys(path), n=1)
            hint = f"did you mean {'.'.join([*path[:-1], close[0]])}?" if close else "conf/base.yaml lists all settings"
            lines.append(f"{name}: unknown setting; {hint}")
        elif error["type"] != "too_short" or all(len(other["loc"]) <= len(path) for other in errors):
            # a list whose only item is wrong is also too short: the item's error is enough
            reason, remedy = _REASON_AND_REMEDY.get(error["type"], (error["msg"], "see conf/base.yaml"))
            if error["type"] == "literal_error" and path[-1].isdigit():
                reason, remedy = _unknown_choice(error["input"], re.findall("'([^']*)'", error["ctx"]["expected"]))
            reason, got = reason.removeprefix("Value error, "), short_repr(error["input"])
            is_secret = names_secret(name) or name == "census.key_file"
            got_text = "" if isinstance(error["input"], dict) or is_secret or got in reason else f", got {got}"
            lines.append(f"{name}: {reason}{got_text}; {remedy}")
    more = fault.error_count() - len(errors)
    return " | ".join([*lines, *[f"and {more:,} more errors"] * (more > 0)])


_REASON_AND_REMEDY = {  # for pydantic errors without a remedy
    "string_type": ("Input should be a valid string", "put text in quotes"),
    "tuple_type": ("must be a list", "write it as [a, b]"),
}


def _sibling_keys(path: list[str]) -> list[str]:
    if len(path) == 1:
        return list(Settings.model_fields)
    if len(path) > 2:
        return []
    section = Settings.model_fields[path[0]].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
