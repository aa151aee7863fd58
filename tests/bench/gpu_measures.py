"""What gpu.py measures, on flows that it draws.

Shape suffixes: N rows, M packets kept of each flow, B rows of a batch, P packets of a batch, F features.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from plain import PlainEnsemble
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence

from iotid import config
from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.model.network.sequences import distinct_sequences, logits_by_batch, step_counts
from iotid.training.fit import _Run, exact_float32, find_device, fit
from iotid.training.ranks import Ranks

_PACKETS = 32
_CLASSES = 34
_SHORT = (0.27, 0.2)  # shares of flows of one or two packets, and of those that fill all packets
_MEAN_LENGTH = 13.0  # packets of all others before they are cut
_REPEATS_EXPONENT = 0.84  # of the power law of how many flows a row stands for; the mean is about 15
_MOST_REPEATS = 3_000
_PRODUCTS = 5  # timed together, so that starting them counts little
_PREDICTED_PACKETS = 16_384  # packets of a batch of predictions, as in validation


@dataclass(frozen=True)
class Sizes:
    """``steps``: of the comparison of devices; ``plain_steps``: timed together; ``square``: rows of the matrix product
    by which peak speed is measured."""

    rows: int
    values: tuple[int, int]
    batches: tuple[int, ...]
    steps: int
    plain_batch: int
    plain_steps: int
    plain_flows: int
    repeats: int
    square: int
    model: tuple[str, ...] = ()


FULL = Sizes(4096, (1_400, 5_000), (64, 256, 1024), 10, 256, 20, 8_192, 5, 8_192)
SMALL = Sizes(
    64, (30, 50), (16,), 3, 8, 1, 32, 2, 64, ("model.embedding_size=6", "model.hidden_size=6")
)  # fmt: skip


def measure(device: str, *, small: bool) -> dict[str, Any]:
    """All that gpu.py prints."""
    sizes, begin = SMALL if small else FULL, time.perf_counter()
    train, validation, encoding = draw_flows(sizes, 1), draw_flows(sizes, 2, share=8), encoding_of(sizes)
    bench = Bench(device, sizes, encoding, train, validation)
    found: dict[str, Any] = {"machine": _machine(device), "small": small, "flows": _describe(train)}
    for name, part in (
        ("same_losses", bench.same_losses),
        ("ranks", bench.ranks),
        ("peak_tflops", bench.peaks),
        ("training", bench.training),
        ("prediction", bench.prediction),
    ):
        found[name] = part()
        sys.stderr.write(f"{time.perf_counter() - begin:.0f} s: {name}: {found[name]}\n")
    found["steps"] = bench.steps(found["peak_tflops"])
    found["peak_memory_mb"] = bench.peak_memory_mb
    return {**found, "seconds": round(time.perf_counter() - begin, 1)}


def encoding_of(sizes: Sizes) -> Encoding:
    """Lengths from 40 bytes on, and windows spread over all 65,536."""
    lengths, windows = sizes.values
    vocabularies = {
        "packet_length": Vocabulary(tuple(range(40, 40 + lengths))),
        "tcp_window": Vocabulary(tuple(np.linspace(0, 65_535, windows).astype(int).tolist())),
    }
    return Encoding(_PACKETS, vocabularies, tuple(f"model {number}" for number in range(_CLASSES)), {}, (6, 17), "ip")


def draw_flows(sizes: Sizes, seed: int, *, share: int = 1) -> EncodedFlows:
    """Distinct rows, a ``share``-th of the usual number.

    Many flows have one or two packets (UDP), some fill all 32, the rest are in between. Frequent values are drawn more
    often (Zipf), most rows occur once, and a few thousands of times.
    """
    random, rows = np.random.default_rng(seed), max(1, sizes.rows // share)
    kind_N, middle_N = random.random(rows), 3 + random.geometric(1 / _MEAN_LENGTH, rows)
    length_N = np.where(kind_N < _SHORT[0], 1 + (kind_N < _SHORT[0] / 2), middle_N.clip(max=_PACKETS))
    length_N = np.where(kind_N > 1 - _SHORT[1], _PACKETS, length_N)
    there_NM = np.arange(_PACKETS) < length_N[:, None]
    sequences = {}
    for name, size in zip(("packet_length", "tcp_window"), sizes.values, strict=True):
        chance = 1 / np.arange(1, size + 1)
        drawn_NM = random.choice(size, (rows, _PACKETS), p=chance / chance.sum())
        sequences[name] = ((2 + drawn_NM) * there_NM).astype(np.int32)  # 0 is padding, 1 out of vocabulary
    distinct, _ = distinct_sequences(sequences)
    rows = len(distinct["packet_length"])  # a few short ones were equal
    repeats_N = np.floor(random.random(rows) ** (-1 / _REPEATS_EXPONENT)).clip(max=_MOST_REPEATS)
    return EncodedFlows(distinct, random.integers(0, _CLASSES, rows), repeats_N.astype(np.int64))


def rows_of_flows(rows: EncodedFlows, number: int = 0) -> np.ndarray:
    """The row of each flow, in random order; the first ``number`` of them (0: all)."""
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(len(rows.label)), rows.num_flows))
    return order[: number or None]


class Bench:
    """``peak_memory_mb`` has entries once training was measured."""

    def __init__(
        self, device: str, sizes: Sizes, encoding: Encoding, train: EncodedFlows, validation: EncodedFlows
    ) -> None:
        self.device, self.sizes, self.encoding = torch.device(device), sizes, encoding
        self.train, self.validation = train, validation
        self.peak_memory_mb: dict[str, float] = {}

    def settings(self, *changes: str, paper: bool = False) -> config.Settings:
        plain = [f"training.device={self.device.type}", "training.kept_answers_mb=0", *self.sizes.model]
        own = ["model.padding=ignored"] if paper else ["training.calibration=none", "model.sequence_counts=false"]
        return config.load_settings(["paper.yaml"] if paper else [], [*plain, *own, *changes])

    def run(self, *changes: str) -> _Run:
        """iotid's training, before its first step."""
        settings = self.settings(*changes)
        ranks = Ranks.here(find_device(settings.training))
        return _Run(settings.model, settings.training, self.encoding, self.train, self.validation, ranks)

    @exact_float32()
    def same_losses(self) -> dict[str, Any]:
        """Of the same steps from the same weights; bfloat16 on the device is compared with float32 on the CPU."""
        batch = self.sizes.batches[0]
        rows = np.random.default_rng(4).permutation(len(self.train.label))

        def losses(*changes: str) -> np.ndarray:
            run = self.run("model.dropout=0", f"training.batch_size={batch}", *changes)
            run._model.train()
            found = [
                float(step(run, run._prepare(rows[at * batch % len(rows) :][:batch]))) for at in range(self.sizes.steps)
            ]
            return np.array(found)

        expected = losses("training.precision=float32", "training.device=cpu")
        tolerances = {"float32": 1e-3, "bfloat16": 5e-2}
        found: dict[str, Any] = {"steps": self.sizes.steps, "first": float(expected[0]), "last": float(expected[-1])}
        for precision, tolerance in tolerances.items():
            apart = float(np.abs(losses(f"training.precision={precision}") - expected).max())
            found[precision] = {"largest_difference": apart, "tolerance": tolerance, "within": apart <= tolerance}
        return found

    def ranks(self) -> list[dict[str, Any]]:
        """``losses`` are those of two epochs in batches of one size; ``losses_apart``: from those of one rank."""
        gpus = torch.cuda.device_count() if self.device.type == "cuda" else 2
        found = [self._with_ranks(world) for world in sorted({1, gpus})]
        for each in found:
            each["losses_apart"] = float(np.abs(np.subtract(each["losses"], found[0]["losses"])).max())
        return found

    def _with_ranks(self, world: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(run_rank, (world, folder, self), nprocs=world)
            return json.loads(Path(folder, "found.json").read_text())

    @exact_float32()
    def peaks(self) -> dict[str, float]:
        """TFLOP/s of a large matrix product."""
        found = {}
        for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            a, b = (torch.randn(self.sizes.square, self.sizes.square, device=self.device, dtype=dtype) for _ in "ab")
            seconds = self.time(lambda a=a, b=b: [a @ b for _ in range(_PRODUCTS)])
            found[precision] = _PRODUCTS * 2 * self.sizes.square**3 / seconds / 1e12
        return found

    @exact_float32()
    def training(self) -> dict[str, Any]:
        """iotid in the precision that it chooses; the plain model in float32 as torch computes it, LSTMs in TF32."""
        self._forget_memory()
        run, epochs = self.run(f"training.batch_size={self.sizes.batches[0]}"), iter(range(1, 1000))
        iotid = _rates(self.time(lambda: learn(run, next(epochs))), self.train)
        self._note_memory("iotid")
        self._forget_memory()
        with torch_default():
            plain = self._plain_training()
        self._note_memory("plain")
        return {"iotid": iotid, "plain": plain, "ratio": iotid["flows_per_s"] / plain["flows_per_s"]}

    def _plain_training(self) -> dict[str, float]:
        settings = self.settings(paper=True)
        model = PlainEnsemble(settings.model, _CLASSES).to(self.device)
        optimiser = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
        sequences, flows = self._plain_values(self.train), rows_of_flows(self.train)
        draw, batch = np.random.default_rng(1), self.sizes.plain_batch

        def steps() -> None:
            for _ in range(self.sizes.plain_steps):
                rows = draw.choice(flows, batch)
                ids = {name: torch.from_numpy(ids_NM[rows]).to(self.device) for name, ids_NM in sequences.items()}
                labels = torch.from_numpy(self.train.label[rows]).to(self.device)
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(model(ids), labels).backward()
                optimiser.step()

        seconds = self.time(steps)
        return {"flows_per_s": batch * self.sizes.plain_steps / seconds}

    def _plain_values(self, rows: EncodedFlows) -> dict[str, np.ndarray]:
        """int64 (N, M): each value + 1, and 0 where there is no packet, as the plain model reads them."""
        found = {}
        for name, known in self.encoding.vocabularies.items():
            by_id = np.concatenate([[0, 0], np.array(known.values) + 1])
            found[name] = by_id[rows.sequences[name]].astype(np.int64)
        return found

    def prediction(self) -> dict[str, Any]:
        """Classes of all flows of the training part. ``largest_difference``: of probabilities, in float32."""
        run, plain = self.run(), PlainEnsemble(self.settings(paper=True).model, _CLASSES).to(self.device).eval()
        run._model.eval()
        plain.load_weights(run._model.cpu(), self.encoding.vocabularies)
        run._model.to(self.device)
        flows = rows_of_flows(self.train)
        encoded = {name: ids_NM[flows] for name, ids_NM in self.train.sequences.items()}
        some, values = flows[: self.sizes.plain_flows], self._plain_values(self.train)

        @torch.inference_mode()
        def by_plain() -> np.ndarray:
            parts = [
                plain({name: torch.from_numpy(ids_NM[rows]).to(self.device) for name, ids_NM in values.items()}).cpu()
                for rows in np.array_split(some, max(1, len(some) // self.sizes.plain_batch))
            ]
            return torch.cat(parts).softmax(dim=1).numpy()

        with exact_float32():
            answers = self._predicted(run, encoded)[: len(some)]
            apart = float(np.abs(answers - by_plain()).max())
            iotid = len(flows) / self.time(lambda: self._predicted(run, encoded))
        with torch.autocast(self.device.type, torch.bfloat16):
            rounded = len(flows) / self.time(lambda: self._predicted(run, encoded))
        with torch_default():
            rate = len(some) / self.time(by_plain)
        return {
            "iotid": {"flows_per_s": iotid, "flows_per_s_bfloat16": rounded},
            "plain": {"flows_per_s": rate},
            "ratio": iotid / rate,
            "largest_difference": apart,
        }

    @torch.inference_mode()
    def _predicted(self, run: _Run, encoded: Mapping[str, np.ndarray]) -> np.ndarray:
        distinct, which_N = distinct_sequences(encoded)
        counts = step_counts(distinct, "ignored")
        out = np.empty((len(counts), _CLASSES), np.float32)
        for rows, logits_BC in logits_by_batch(run._model, distinct, counts, _PREDICTED_PACKETS, device=self.device):
            out[rows] = logits_BC.float().softmax(dim=1).numpy()
        return out[which_N]

    @exact_float32()
    def steps(self, peak_tflops: Mapping[str, float]) -> list[dict[str, Any]]:
        """Steps by precision and batch size."""
        found = []
        for precision in ("float32", "bfloat16"):
            for batch in self.sizes.batches:
                run = self.run(f"training.precision={precision}", f"training.batch_size={batch}")
                found.append(self._step(run, batch, peak_tflops[precision]) | {"precision": precision})
                sys.stderr.write(f"{found[-1]}\n")
        return found

    def _step(self, run: _Run, batch: int, peak: float) -> dict[str, Any]:
        rows, epochs = len(self.train.label), iter(range(1, 1000))
        order = np.random.default_rng(5).permutation(rows)
        batches = np.split(order, range(batch, rows, batch))
        number = len(batches)
        whole = self.time(lambda: learn(run, next(epochs))) / number
        given = [run._prepare(each) for each in batches]
        run._parallel.train()

        def prepared_only() -> None:
            for each in given:
                step(run, each).item()

        prepared = self.time(prepared_only) / number
        kernels = self.time(self._lstms_alone(run, batches)) / number
        packets = int(run._counts_N.sum()) / number
        tflops = 3 * _flops(run._model, packets, rows / number) / whole / 1e12
        return {
            "batch": batch,
            "step_ms": 1e3 * whole,
            "prepared_step_ms": 1e3 * prepared,
            "loading_share": max(0.0, 1 - prepared / whole),
            "lstm_ms": 1e3 * kernels,
            "lstm_share": kernels / whole,
            "tflops": tflops,
            "share_of_peak": tflops / peak,
        }

    def _lstms_alone(self, run: _Run, batches: list[np.ndarray]) -> Callable[[], None]:
        """Forward and backward of torch.nn.LSTM, of all networks, for each batch; inputs lie on the device already."""
        networks = [*run._model.temporal.values(), run._model.spatial]
        given = []
        for rows in batches:
            lengths_B = torch.from_numpy(np.maximum(run._counts_N[rows], 1)).sort(descending=True).values
            shape = (len(rows), int(lengths_B[0]))
            given.append(
                [
                    pack_padded_sequence(
                        torch.randn(*shape, network.input_size, device=self.device), lengths_B, batch_first=True
                    )
                    for network in networks
                ]
            )
        # one gradient is as good as another, and its values do not change how long a kernel takes
        longest = max(packed[0].data.shape[0] for packed in given)
        gradient_PF = torch.randn(longest, 2 * networks[0].hidden_size, device=self.device)

        def call() -> None:
            for inputs in given:
                for network, packed in zip(networks, inputs, strict=True):
                    network.zero_grad(set_to_none=True)
                    x = packed._replace(data=packed.data.detach().requires_grad_())
                    with run._autocast():
                        output = network(x)[0].data
                    output.backward(gradient_PF[: len(output)].to(output.dtype))

        return call

    def time(self, call: Callable[[], Any]) -> float:
        """Seconds of a call: the median of several after one that is not counted."""
        found = []
        for _ in range(self.sizes.repeats + 1):
            self._wait()
            begin = time.perf_counter()
            call()
            self._wait()
            found.append(time.perf_counter() - begin)
        return statistics.median(found[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _forget_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _note_memory(self, name: str) -> None:
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_allocated()
        else:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.peak_memory_mb[name] = used / 1e6


def step(run: _Run, given: Any) -> Tensor:
    """One step of iotid's training without its check of the loss, which it returns."""
    run._optimiser.zero_grad(set_to_none=True)
    loss = run._share_of_loss(given)
    loss.backward()
    run._optimiser.step()
    return loss.detach()


def learn(run: _Run, epoch: int) -> None:
    """An epoch of iotid's training, without validation."""
    run.state.batch = 0
    run._learn(epoch, lambda: None)


def run_rank(rank: int, world: int, folder: str, bench: Bench) -> None:
    """Entry point of a rank's process; rank 0 writes FOLDER/found.json."""
    if bench.device.type == "cuda":
        torch.cuda.set_device(rank)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        torch.set_num_threads(1)
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    found = bench_rank(bench, world, folder)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps({"backend": backend, "ranks": world, **found}))
    dist.destroy_process_group()
    # torch's threads may abort a process while the interpreter ends: two of some seventy did here
    os._exit(0)


def bench_rank(bench: Bench, world: int, folder: str) -> dict[str, Any]:
    """Speed of training, with as many rows of a batch for each rank as one has alone, and of an all-reduce.

    By one rank, too, gradients go through DistributedDataParallel.
    """
    same = [f"training.ranks={world}", "training.epochs=2", "training.precision=float32", "model.dropout=0"]
    settings = bench.settings(*same, f"training.batch_size={bench.sizes.batches[0]}")
    result = fit(settings.model, settings.training, bench.encoding, bench.train, bench.validation, f"{folder}/model")
    batch = world * bench.sizes.batches[0]
    with exact_float32():
        run, epochs = bench.run(f"training.ranks={world}", f"training.batch_size={batch}"), iter(range(1, 1000))
        if world == 1:
            run._parallel = DistributedDataParallel(run._model)
        seconds = bench.time(lambda: learn(run, next(epochs)))
    gradients = torch.zeros(sum(parameter.numel() for parameter in run._model.parameters()), device=bench.device)
    return {
        "batch": batch,
        **_rates(seconds, bench.train),
        "losses": [epoch["loss"] for epoch in result.history],
        "all_reduce_ms": 1e3 * bench.time(lambda: dist.all_reduce(gradients)),
        "gradients_mb": gradients.numel() * 4 / 1e6,
    }


@contextlib.contextmanager
def torch_default() -> Iterator[None]:
    """LSTMs in TF32 where the GPU has it, which is torch's default, within what else is exact."""
    rnn: Any = torch.backends.cudnn.rnn
    before, rnn.fp32_precision = rnn.fp32_precision, "tf32"
    try:
        yield
    finally:
        rnn.fp32_precision = before


def _rates(seconds: float, rows: EncodedFlows) -> dict[str, float]:
    return {"flows_per_s": float(rows.num_flows.sum()) / seconds, "rows_per_s": len(rows.label) / seconds}


def _flops(model: nn.Module, packets: float, rows: float) -> float:
    """Floating-point operations of a forward pass: those of its matrix products, two for each weight and packet."""
    weights = sum(
        parameter.numel()
        for network in (*model.temporal.values(), model.spatial)
        for name, parameter in network.named_parameters()
        if name.startswith("weight")
    )
    return 2 * weights * packets + 2 * model.classifier.weight.numel() * rows


def _describe(rows: EncodedFlows) -> dict[str, float]:
    counts = step_counts(rows.sequences, "ignored")
    return {
        "rows": len(rows.label),
        "flows": int(rows.num_flows.sum()),
        "packets_per_row": float(counts.mean()),
        "classes": _CLASSES,
    }


def _machine(device: str) -> dict[str, Any]:
    on_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
