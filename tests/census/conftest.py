"""Models small enough to be trained here, and nights of made-up flows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import FLOWS

# What the flows of a kind look like: packet lengths, and their windows.
LOOKS = {
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
_NIGHTS = 10  # of one device of each kind that was learned from; "other" is no listed one


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Learns to tell cameras from plugs, under the labels given, and saves the model's folder; its network learned
    nothing, as a census asks for none."""
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
        settings = config.Model(
            embedding_size=4,
            hidden_size=4,
            layers=1,
            dropout=0,
            fusion="concatenate",
            readout="mean",
            padding="ignored",
            sequence_counts=False,
        )
        model = AdaptiveEnsemble(settings, vocabulary_sizes(encoding), len(labels))
        learned = Learned()
        if sets:
            _, kind_C = kinds_of(labels, encoding.devices)
            learned = Learned(devices=DeviceModel(kind_C).fit(FlowSets(*_nights(encoding))))
        folder = tmp_path_factory.mktemp("model")
        save_bundle(folder, model.state_dict(), settings, encoding, learned)
        return folder

    def _nights(encoding: Encoding) -> tuple[dict[str, Any], csr_matrix, Any, Any, csr_matrix]:
        """Of each kind some nights, on which most of its looks are shown up to five times."""
        random = np.random.default_rng(1)
        shown = [(kind, look) for kind in ("other", *LEARNED) for look in LOOKS[kind]]
        table = pa.table(
            {"packet_length": [look[0] for _, look in shown], "tcp_window": [look[1] for _, look in shown]}
        )
        kind_B = np.repeat(["other", *LEARNED], _NIGHTS)
        is_own_BD = kind_B[:, np.newaxis] == np.array([kind for kind, _ in shown])
        flows_BD = is_own_BD * random.integers(1, 6, is_own_BD.shape) * (random.random(is_own_BD.shape) < 0.8)
        label_B = np.array([LEARNED.index(kind) if kind in LEARNED else -1 for kind in kind_B])
        no_sessions = csr_matrix(flows_BD.shape, dtype=np.int64)
        return encoding.encode(table), csr_matrix(flows_BD), label_B, np.arange(len(kind_B)), no_sessions

    return learn


def flow(look: str, client_ip: str, client_mac: str | None, variant: int = 0, **more: Any) -> dict[str, Any]:
    """A flow of one look from a device to a server of the Internet, through the gateway."""
    lengths, windows = LOOKS[look][variant]
    return {
        "capture_file": "a.pcap", "protocol": 6, "vlan": None, "client_ip": client_ip, "client_port": 4000,
        "server_ip": "52.0.0.1", "server_port": 443, "client_mac": client_mac, "server_mac": "02:00:00:00:00:01",
        "client_packets": 1, "client_bytes": 60, "server_packets": len(lengths) - 1, "server_bytes": sum(lengths[1:]),
        "address_conflict": False, "answered": more.get("server_packets", len(lengths) - 1) > 0,
        "end_reason": "end", "packet_length": lengths, "tcp_window": windows, "direction": [1] * len(lengths),
        "inter_arrival_us": [0] * len(lengths), "tcp_flags": [16] * len(lengths), "payload_length": lengths,
    } | more  # fmt: skip


@pytest.fixture
def make_flow() -> Callable[..., dict[str, Any]]:
    return flow


@pytest.fixture
def write_night() -> Callable[..., Partition]:
    """Writes a partition of flows as the step before the census does: in several files, in no useful order."""

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
        with store.write("flows", PartitionKey.of_date(site, capture_date)) as staged:
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
