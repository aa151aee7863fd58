"""Mistakes that people make in Python: each is one line that says what to do instead."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import iotid
from iotid import capture, census, config, flows, model, tracking
from iotid.dataset import Encoding, Vocabulary
from iotid.errors import IotidError

_SECONDS = 1_767_960_000  # 2026-01-09
KNOWN = {"packet_length": (40, 60), "tcp_window": (500, 501), "ttl_class": (64,), "server_port": (443,)}


@pytest.fixture(scope="module")
def pcap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of one TCP flow of six packets between two hosts of Ethernet."""
    records = b""
    for number in range(6):
        ports = (4000, 443) if number % 2 == 0 else (443, 4000)
        tcp = struct.pack(">HHIIBBHHH", *ports, number, 0, 0x50, 0x10, 500 + number, 0, 0) + bytes(10 * number)
        hosts = (b"\xc0\xa8\1\7", b"\x34\0\0\1") if number % 2 == 0 else (b"\x34\0\0\1", b"\xc0\xa8\1\7")
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + b"".join(hosts)
        frame = b"\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" + ip + tcp
        records += struct.pack("<IIII", _SECONDS + number, 0, len(frame), len(frame)) + frame
    path = tmp_path_factory.mktemp("captures") / "a.pcap"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + records)
    return path


@pytest.fixture(scope="module")
def predictor() -> model.Predictor:
    """Reads the lengths and windows of five packets."""
    return _reading("packet_length", "tcp_window")


def _reading(*names: str) -> model.Predictor:
    """Reads these characteristics of five packets; of random weights."""
    settings = config.with_values(
        config.load_settings().model, embedding_size=4, hidden_size=5, layers=1, sequence_counts=False
    )
    vocabularies = {name: Vocabulary(KNOWN[name]) for name in names}
    encoding = Encoding(5, vocabularies, ("camera", "plug"), {}, (6, 17), "ip")
    torch.manual_seed(1)
    sizes = {name: vocabulary.size for name, vocabulary in vocabularies.items()}
    return model.Predictor(model.AdaptiveEnsemble(settings, sizes, 2), encoding)


def test_what_is_right__is_answered(pcap: Path, predictor: model.Predictor) -> None:
    found = flows.from_captures(pcap, max_packets=5)
    assert len(capture.read_packets(str(pcap))) == 6
    assert predictor.predict(found.to_pandas()).num_rows == len(census.devices(found)) == 1
    with_headers, more = flows.from_captures(pcap, max_packets=5, header_fields=True), _reading(*KNOWN)
    assert more.predict(with_headers).num_rows == more.predict(with_headers.to_pylist()).num_rows == 1


Call = Callable[[Path, Any], object]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda pcap, _: flows.from_captures(f"{pcap.parent}/*.pcap"),
            r"paths: '\S+/\*\.pcap' is a pattern; pass the result of glob\.glob, or the folder",
        ),
        (
            lambda _, __: capture.read_packets([]),
            r"paths: must be a path or URI of a capture or folder, or a list of them, got none; pass 'a\.pcap', .*",
        ),
        (
            lambda pcap, _: flows.from_captures(pcap, capture_date="09.01.2026"),
            r"capture_date: must be a date, got '09\.01\.2026'; pass '2026-01-31'",
        ),
        (
            lambda pcap, _: capture.read_packets(pcap, settings=config.load_settings()),  # type: ignore[arg-type]
            r"settings: must be of type Capture, got Settings; pass iotid\.config\.load_settings\(\)\.capture",
        ),
        (
            lambda pcap, _: capture.counters(capture.read_packets(pcap).to_pandas()),  # type: ignore[arg-type]
            r"table: must be of type Table, got DataFrame; pass the table that read_packets or from_captures returned",
        ),
        (
            lambda pcap, predictor: predictor.predict(pcap),
            r"flows: must be a pyarrow\.Table .*, got PosixPath; pass iotid\.flows\.from_captures\('\S+a\.pcap'\)",
        ),
        (
            lambda pcap, predictor: predictor.predict(capture.read_packets(pcap)),
            r"flows: packet_length must be list<int32>, got int32; these are packets: pass flows of iotid\.flows\.\S+",
        ),
        (
            lambda pcap, predictor: predictor.predict(flows.from_captures(pcap, max_packets=2)),
            r"flows: row 0: keeps 2 of its 6 packets, and the model reads 5; assemble the flows with max_packets=5",
        ),
        (
            lambda pcap, predictor: predictor.predict(flows.from_captures(pcap, length="frame")),
            r"flows: packet_length counts from the frame header on, .*; assemble the flows with length='ip'",
        ),
        (
            lambda pcap, predictor: census.devices(flows.from_captures(pcap, length="frame"), predictor),
            r"flows: packet_length counts from the frame header on, .*; assemble the flows with length='ip'",
        ),
        (
            lambda pcap, _: _reading("ttl_class").predict(flows.from_captures(pcap, max_packets=5)),
            r"flows: row 0: ttl has no packets; assemble the flows with header_fields=True \(flow\.header_fields\)",
        ),
        (
            lambda pcap, _: census.devices(flows.from_captures(pcap, max_packets=5), _reading("ttl_class")),
            r"flows: row 0: ttl has no packets; assemble the flows with header_fields=True \(flow\.header_fields\)",
        ),
        (
            lambda _, __: config.load_settings("local.yaml"),
            r"files: must be a list, got 'local\.yaml'; pass \['local\.yaml'\]",
        ),
        (
            lambda _, predictor: predictor.predict(pd.DataFrame({"packet_length": ["[60]"], "tcp_window": ["[1]"]})),
            r"flows: packet_length must be list<int32>, got string; pass flows of iotid\.flows\.from_captures, or .*",
        ),
        (
            lambda pcap, _: census.devices(flows.from_captures(pcap), "models:/iotid@champion"),  # type: ignore[arg-type]
            r"model: must be of type Predictor, got str; pass what iotid\.tracking\.load or \S+ returns",
        ),
        (
            lambda pcap, _: tracking.load("models:/iotid@champion", f"sqlite:///{pcap.parent}/absent.db"),
            r"tracking_uri: there is no database \S+/absent\.db; pass the server's URI, sqlite:///PATH or .*",
        ),
        (
            lambda _, __: iotid.spark_session({"spark.master": "local"}),  # type: ignore[arg-type]
            r"settings: must be of type Spark, got dict; pass iotid\.config\.load_settings\(\)\.spark",
        ),
    ],
    ids=[
        "a pattern of paths", "no captures", "another form of date", "all settings instead of a section",
        "counters of a data frame", "a capture instead of flows", "packets instead of flows",
        "flows of fewer packets than the model reads", "flows of frames' lengths", "devices of frames' lengths",
        "flows without header fields", "devices of flows without header fields",
        "a file of settings without a list",
        "lists read from CSV", "a model's address instead of the model", "a misspelt database", "settings of Spark",
    ],
)  # fmt: skip
def test_mistake__is_one_line_that_says_what_to_do(
    call: Call, message: str, pcap: Path, predictor: model.Predictor
) -> None:
    with pytest.raises(IotidError, match=f"^{message}$") as caught:
        call(pcap, predictor)
    assert "\n" not in str(caught.value)
    assert [path.name for path in pcap.parent.iterdir()] == ["a.pcap"]
