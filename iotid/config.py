"""Settings: YAML layers merged into frozen sections. An unknown key, a wrong type or a value out of range is an error.

``conf/base.yaml`` holds every setting once with its unit and reason; no default stands in Python. A function gets the
section it needs, never the whole.
"""

from __future__ import annotations

import atexit
import difflib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from iotid.errors import SettingError

_DEFAULT_LAYERS = ("base.yaml", "promotion.yaml", "watchlist.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


NO_PASSWORD = "must not hold a password, for it is told in logs; give it by the environment (see SECURITY.md)"


def holds_password(uri: str) -> bool:
    """Locations are told in logs, in tracking and in metadata, so what they hold is no secret."""
    try:
        return urlsplit(uri).password is not None
    except ValueError:  # no URI at all: whoever opens it will tell
        return False


def _without_password(uri: str) -> str:
    if holds_password(uri):
        raise PydanticCustomError(_PASSWORD, NO_PASSWORD)
    return uri


_PASSWORD = "password_in_location"
_Location = Annotated[str, AfterValidator(_without_password)]


class Storage(_Section):
    root: _Location = Field(min_length=1)


class Spark(_Section):
    master: str
    driver_memory: str = Field(pattern=r"^\d+[kmgt]$")
    shuffle_partitions: int = Field(ge=1)
    conf: dict[str, str]


class Capture(_Section):
    strict: bool
    unreadable: Literal["fail", "quarantine"]
    chunk_bytes: int = Field(ge=4096)
    split_bytes: int = Field(ge=4096)
    task_bytes: int = Field(ge=1)
    max_packet_bytes: int = Field(ge=64, le=2**30)
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
    tcp_close: bool
    length: Literal["ip", "frame"]
    join_files: bool
    keep_bytes: int = Field(ge=0, le=65535)
    keep_packets: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _keeps_bytes_of_packets_that_are_kept(self) -> Flow:
        if self.keep_bytes > 0 and self.keep_packets > self.max_packets:
            raise ValueError(
                f"keep_packets must be at most max_packets ({self.max_packets}) where keep_bytes is set, "
                f"got {self.keep_packets}"
            )
        return self


class Dataset(_Section):
    characteristics: tuple[str, ...] = Field(min_length=1)
    protocols: tuple[int, ...] = Field(min_length=1)
    label: Literal["name", "model", "type"]
    unlisted: Literal["drop", "unknown"]
    min_flows: int = Field(ge=1)
    protocol: Literal["random_flow", "random_unique", "by_capture", "by_time"]
    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    seed: int
    unique: bool
    row_groups: int = Field(ge=1)
    sets: int = Field(ge=1)
    min_count: int = Field(ge=1)

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Dataset:
        if self.train + self.validation >= 1:
            raise ValueError(f"train + validation must leave a test part below 1, got {self.train + self.validation}")
        return self


class Model(_Section):
    embedding_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    layers: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    fusion: Literal["concatenate", "sequence"]
    readout: Literal["mean", "last"]
    padding: Literal["ignored", "zeros"]
    memory: bool


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
    seed: int = Field(ge=0)


class Evaluation(_Section):
    baselines: tuple[str, ...]
    further_baselines: tuple[str, ...]
    protocols: tuple[str, ...] = Field(min_length=1)
    folds: int = Field(ge=3)
    drift_days: int = Field(ge=1)
    left_out_groups: int = Field(ge=2)
    etei_epochs: int = Field(ge=1)
    bootstrap: int = Field(ge=0)
    seed: int


class Tracking(_Section):
    uri: _Location | None
    experiment: str = Field(min_length=1)
    model: str = Field(min_length=1)


class Census(_Section):
    batch_rows: int = Field(ge=1)
    min_flows: int = Field(ge=1)
    min_confidence: float = Field(ge=0, le=1)
    max_surprise: float = Field(ge=0, le=1)
    several_flows: int = Field(ge=1)
    several_chance: float = Field(gt=0, le=0.5)
    likeness: float = Field(gt=0, le=1)
    remember_days: int = Field(ge=1)
    inside: tuple[str, ...]
    # these two are never dumped, hence in no hash: they change what devices are called, not what is said of them
    pseudonyms: bool = Field(exclude=True)
    key_file: str | None = Field(exclude=True)


class Promotion(_Section):
    min_macro_f1: float = Field(ge=0, le=1)
    macro_f1_margin: float = Field(ge=-1, le=1)
    margin_judged_by: Literal["difference", "lower_bound"]
    min_recall: dict[str, Annotated[float, Field(ge=0, le=1)]]
    max_recall_drop: float = Field(ge=0, le=1)
    min_support: int = Field(ge=1)
    max_calibration_error: float | None = Field(ge=0, le=1)
    max_calibration_rise: float | None = Field(ge=0, le=1)


class Watched(_Section):
    """An entry of the watch list: a name, which may stand alone, and the confidences at which it counts."""

    name: str = Field(min_length=1)
    lowest: float = Field(0, alias="from", ge=0, le=1)
    highest: float = Field(1, alias="to", ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _from_is_not_above_to(self) -> Watched:
        if self.lowest > self.highest:
            raise ValueError(f"from must be at most to ({self.highest}), got {self.lowest}")
        return self


class Watchlist(_Section):
    labels: tuple[Watched, ...]
    vendors: tuple[Watched, ...]
    types: tuple[Watched, ...]
    fail: bool


class Settings(_Section):
    """All sections; see ``conf/base.yaml`` for what each key means."""

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
    """The folder of the package's files; of a package inside a zip (spark-submit --py-files), an unpacked copy."""
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

    A file is a path, or the bare name of one in ``conf/`` (``local.yaml``). Relative storage roots are made absolute
    here, so that no later step depends on the current folder.

    Raises:
        SettingError: a file is missing or not YAML; a key is unknown; a value has the wrong type or range.
    """
    merged: dict[str, Any] = {}
    for name in _DEFAULT_LAYERS:
        _merge(merged, _read_yaml(conf_dir() / name))
    for given in map(Path, files):
        shipped = conf_dir() / given
        _merge(merged, _read_yaml(shipped if shipped.is_file() and not given.exists() else given))
    for override in overrides:
        _merge(merged, _parse_override(override))
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as fault:
        raise SettingError(_explain(fault)) from None
    root = settings.storage.root
    if "://" not in root:
        root = str(Path(root).expanduser().resolve())
    return settings.model_copy(update={"storage": Storage(root=root)})


def settings_hash(*sections: BaseModel, extra: Mapping[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits that name what a derived thing was made with: sections, and inputs in ``extra``."""
    parts: list[Any] = [{type(section).__name__: section.model_dump(mode="json")} for section in sections]
    parts.append(dict(extra or {}))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise SettingError(f"--config {path}: cannot be read ({fault.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        first_line = str(fault).splitlines()[0]
        raise SettingError(f"--config {path}: is not valid YAML ({first_line}); mend the file") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(f"--config {path}: must hold sections (name: {{key: value}}), got {type(content).__name__}")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise SettingError(f"--set {text}: must read section.key=value, as in training.epochs=10")
    try:
        return {section: {key: yaml.safe_load(value)}}
    except yaml.YAMLError:
        raise SettingError(f"--set {text}: the value is not valid YAML; quote it") from None


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for section, values in layer.items():
        if isinstance(values, Mapping) and isinstance(into.get(section), dict):
            into[section].update(values)
        else:
            into[section] = dict(values) if isinstance(values, Mapping) else values


def _explain(fault: ValidationError) -> str:
    lines = []
    for error in fault.errors():
        place = [str(part) for part in error["loc"]]
        name = ".".join(place)
        if error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(place[-1], _keys_beside(place), n=1)
            hint = (
                f"did you mean {'.'.join([*place[:-1], close[0]])}?" if close else "conf/base.yaml lists all settings"
            )
            lines.append(f"{name}: unknown setting; {hint}")
        else:
            reason = error["msg"].removeprefix("Value error, ")
            value = error.get("input")
            got = "" if isinstance(value, dict) or error["type"] == _PASSWORD else f", got {value!r}"
            lines.append(f"{name}: {reason}{got}; see conf/base.yaml")
    return " | ".join(lines)


def _keys_beside(place: list[str]) -> list[str]:
    if len(place) == 1:
        return list(Settings.model_fields)
    if len(place) > 2:
        return []
    section = Settings.model_fields[place[0]].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
