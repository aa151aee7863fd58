"""The sections of the settings: names, types and ranges of every key."""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from iotid.errors import short_repr, shorten
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted_location


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _check_credentials(cls, given: Any) -> Any:
        """Logs, tracking and metadata show settings, so a location must not contain a secret."""
        for path, text in _iter_texts(given):
            if holds_credentials(text):
                found = {"path": ".".join(path), "got": redacted_location(text)}
                raise PydanticCustomError(CREDENTIALS_ERROR, NO_CREDENTIALS, found)
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
        raise ValueError("; ".join(unknown_choice(name, [*COMPARED, "site:NAME"])))
    return name


def unknown_choice(name: Any, known: list[str]) -> tuple[str, str]:
    close = difflib.get_close_matches(shorten(str(name)), known, n=1)
    return (
        f"{short_repr(name)} is not known",
        f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}",
    )


def _as_tuple(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


CREDENTIALS_ERROR = "credentials_in_location"
COMPARED = ("random_flow", "random_unique", "by_capture", "by_time", "capture_folds", "across", "drift", "devices_out")
"""Split protocols of ``iotid compare``, besides ``site:NAME``."""
_Switch = Annotated[bool, BeforeValidator(_yes_no)]
_Pseudonyms = Literal["off", "opaque", "prefixes"]
_Path = Annotated[str, Field(min_length=1)]
_Paths = Annotated[
    tuple[_Path, ...], BeforeValidator(_as_tuple, json_schema_input_type=_Path | tuple[_Path, ...]), Field(min_length=1)
]
_Name = Annotated[str, AfterValidator(to_nfc), Field(min_length=1)]  # of a label, vendor or type
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # the range of NumPy's and scikit-learn's generators
# names in the registries of dataset/characteristics and baselines; tests compare them
_Characteristic = Literal[
    "packet_length", "tcp_window", "direction", "inter_arrival", "tcp_flags", "payload_length",
    "ttl_class", "dscp", "dont_fragment", "ip_id_step", "tcp_options", "tcp_mss", "tcp_window_scale", "timestamp_rate",
    "server_port",
]  # fmt: skip
_Baseline = Literal["majority_sequence", "sequence_knn", "random_forest"]
_PacketBaseline = Literal[
    "pinheiro_knn", "pinheiro_tree", "pinheiro_forest", "pinheiro_svm", "pinheiro_vote", "byteiot", "etei"
]  # fmt: skip
_CaptureBaseline = Literal[
    "sivanathan",
    "iot_sentinel",
    "hamad",
    "audi",
    "pingpong",
    "deft",
    "diot",
]


S = TypeVar("S", bound=_Section)


class Storage(_Section):
    root: str = Field(min_length=1)
    umask: Annotated[str, BeforeValidator(_octal_text), Field(pattern=r"^0[027][027]$")]


class Spark(_Section):
    master: Annotated[str, AfterValidator(_check_master)]
    driver_memory: str = Field(pattern=r"^\d+[kmgt]$")
    shuffle_partitions: int | None = Field(ge=1)
    in_process_bytes: int = Field(ge=0)
    in_process_flows: int = Field(ge=0)
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
    header_fields: _Switch

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
    schedule: Literal["constant", "one_cycle"]
    learning_rate: float = Field(gt=0)
    repeat_weight: float = Field(ge=0, le=1)
    class_weight: Literal["none", "sqrt", "balanced"]
    calibration: Literal["none", "temperature", "classes"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: int = Field(ge=1)
    checkpoint_minutes: float = Field(ge=0)
    kept_answers_mb: float = Field(ge=0, le=1024)
    seed: _Seed


class Evaluation(_Section):
    baselines: Annotated[tuple[_Baseline, ...], AfterValidator(_check_unique)]
    packet_baselines: Annotated[tuple[_PacketBaseline, ...], AfterValidator(_check_unique)]
    capture_baselines: Annotated[tuple[_CaptureBaseline, ...], AfterValidator(_check_unique)]
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
    # excluded from dumps and hashes: it adds a column and changes no other; census.take compares it as an input
    unlike_kind: _Switch = Field(exclude=True)
    # excluded, too: they change only what is shown and under which names
    page_rows: int = Field(ge=1, exclude=True)
    pseudonyms: Annotated[
        _Pseudonyms, BeforeValidator(_parse_pseudonyms, json_schema_input_type=bool | Literal["on", _Pseudonyms])
    ] = Field(exclude=True)
    key_file: str | None = Field(exclude=True)
    makers: _Paths | None = Field(exclude=True)


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
    devices: tuple[str, ...] = ()
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
