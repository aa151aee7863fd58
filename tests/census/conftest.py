"""A model small enough to be trained here, partitions of synthetic flows, and sites whose census is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from iotid.config import Settings
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import FLOWS, HEADER_COLUMNS

from . import plain_site as plain
from . import spark_site as on_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Flows of each kind: packet lengths, and windows.
PATTERNS = {
    "camera": [
        ([60, 1500, 1500], [1024, 65535, 65535]), ([60, 1500], [1024, 65535]), ([1500] * 3, [65535] * 3),
        ([1500, 60, 1500], [65535, 1024, 65535]),
    ],
    "plug": [
        ([60, 100], [1024, 512]), ([100, 100], [512, 512]), ([100, 60, 100], [512, 1024, 512]),
        ([60, 100, 100], [1024, 512, 512]),
    ],
    "other": [([60] * 3, [1024] * 3), ([60, 60], [1024] * 2), ([1500, 100], [65535, 512])],
    "odd": [([7, 7], [9, 9])],
}  # fmt: skip
LEARNED = ("camera", "plug")
_SETS = 10  # of one device of each kind; "other" is not listed


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains the device model on cameras and plugs, under the given labels, and saves the bundle; the network, which
    the census does not use, is untrained."""
    import torch

    from iotid import config
    from iotid.dataset import FlowSets
    from iotid.dataset.characteristics import Encoding, Vocabulary
    from iotid.model.bundle import Learned, save_bundle, vocabulary_sizes
    from iotid.model.device import DeviceModel, kinds_of
    from iotid.model.network.ensemble import AdaptiveEnsemble

    def learn(labels: tuple[str, str] = LEARNED, *, sets: bool = True) -> Path:
        values = {"packet_length": (60, 100, 1500), "tcp_window": (512, 1024, 65535)}
        encoding = Encoding(
            max_packets=4,
            vocabularies={name: Vocabulary(kept) for name, kept in values.items()},
            labels=labels,
            devices={label: {"vendor": f"{label} works", "type": label, "model": ""} for label in labels},
            protocols=(6, 17),
            length="ip",
        )
        torch.manual_seed(1)
        settings = config.with_values(
            config.load_settings().model, embedding_size=4, hidden_size=4, layers=1, dropout=0, sequence_counts=False
        )
        model = AdaptiveEnsemble(settings, vocabulary_sizes(encoding), len(labels))
        learned = Learned()
        if sets:
            _, kind_C = kinds_of(labels, encoding.devices)
            learned = Learned(devices=DeviceModel(kind_C).fit(FlowSets(*_sets(encoding))))
        folder = tmp_path_factory.mktemp("model")
        save_bundle(folder, model.state_dict(), settings, encoding, learned)
        return folder

    def _sets(encoding: Encoding) -> tuple[dict[str, Any], csr_matrix, Any, Any, csr_matrix]:
        """Sets of each kind, in which most of its patterns occur up to five times."""
        random = np.random.default_rng(1)
        shown = [(kind, pattern) for kind in ("other", *LEARNED) for pattern in PATTERNS[kind]]
        table = pa.table(
            {"packet_length": [pattern[0] for _, pattern in shown], "tcp_window": [pattern[1] for _, pattern in shown]}
        )
        kind_B = np.repeat(["other", *LEARNED], _SETS)
        is_own_BD = kind_B[:, np.newaxis] == np.array([kind for kind, _ in shown])
        flows_BD = is_own_BD * random.integers(1, 6, is_own_BD.shape) * (random.random(is_own_BD.shape) < 0.8)
        label_B = np.array([LEARNED.index(kind) if kind in LEARNED else -1 for kind in kind_B])
        no_sessions = csr_matrix(flows_BD.shape, dtype=np.int64)
        return encoding.encode(table), csr_matrix(flows_BD), label_B, np.arange(len(kind_B)), no_sessions

    return learn


def flow(pattern: str, client_ip: str, client_mac: str | None, variant: int = 0, **more: Any) -> dict[str, Any]:
    """A flow of one pattern from a device to a server of the Internet, through the gateway."""
    lengths, windows = PATTERNS[pattern][variant]
    return {
        "capture_file": "a.pcap", "protocol": 6, "vlan": None, "client_ip": client_ip, "client_port": 4000,
        "server_ip": "52.0.0.1", "server_port": 443, "client_mac": client_mac, "server_mac": "02:00:00:00:00:01",
        "client_packets": 1, "client_bytes": 60, "server_packets": len(lengths) - 1, "server_bytes": sum(lengths[1:]),
        "address_conflict": False, "answered": more.get("server_packets", len(lengths) - 1) > 0,
        "end_reason": "end", "packet_length": lengths, "tcp_window": windows, "direction": [1] * len(lengths),
        "inter_arrival_us": [0] * len(lengths), "tcp_flags": [16] * len(lengths), "payload_length": lengths,
        **{name: [] for name in HEADER_COLUMNS},
    } | more  # fmt: skip


@pytest.fixture
def make_flow() -> Callable[..., dict[str, Any]]:
    return flow


@pytest.fixture
def write_flows() -> Callable[..., Partition]:
    """Writes a partition of flows in several files, in no particular order."""

    def write(
        store: Store,
        site: str,
        capture_date: str,
        flows: Iterable[dict[str, Any]],
        rows: int | None = None,
        **settings: Any,
    ) -> Partition:
        noon = datetime.fromisoformat(capture_date).replace(hour=12, tzinfo=UTC)
        timed = [
            {"first_seen": noon + timedelta(seconds=n), "last_seen": noon + timedelta(seconds=n + 5), **each}
            for n, each in enumerate(flows)
        ]
        table = pa.Table.from_pylist(timed, schema=FLOWS.arrow_schema(stored=True))
        with store.write("flows", PartitionKey.of_date(site, capture_date), FLOWS.version) as staged:
            for part in range(3):
                chosen = table.take(np.arange(part, len(timed), 3))
                pq.write_table(chosen, f"{staged.path}/part-{part}.parquet", filesystem=staged.filesystem)
            staged.metadata |= {
                "rows": len(timed) if rows is None else rows,
                "packets": {"flow": 4 * len(timed), "not_ip": 3},
                "settings": {"flow": {"length": "ip", "max_packets": 32, "join_files": True} | settings},
            }
        return store.open("flows", PartitionKey.of_date(site, capture_date))

    return write


@pytest.fixture(scope="module")
def small_model(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture
def site(
    spark: SparkSession, settings: Settings, small_model: Path, make_flow: Callable, write_flows: Callable
) -> on_spark.Site:
    return on_spark.Site(spark, settings, small_model, make_flow, write_flows)


@pytest.fixture
def plain_site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> plain.Site:
    return plain.Site(settings, monkeypatch)
