"""Saves and loads a trained model as a folder, its bundle: safetensors for all that was learned, JSON for the rest.

There are no pickles. ``Predictor`` serves the model in Python, in Spark workers (from bytes, so that it can be
broadcast) and in MLflow.

Shape suffixes: N flows, D distinct flows, M packets kept of each flow, K characteristics, C classes.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from iotid import __version__, config, schemas
from iotid.arrow import one_chunk
from iotid.dataset.characteristics import CHARACTERISTICS, Encoding, out_of_vocabulary_rate
from iotid.errors import DataError, SchemaError, SettingError, shorten
from iotid.flows.as_table import check_length, flows_of
from iotid.inputs import check_type, parse_object, read_file
from iotid.model.arrays import Spec, parse_arrays, read_arrays
from iotid.model.device import DeviceModel, kinds_of
from iotid.model.device.unlike_kind import UnlikeKind
from iotid.model.network.kept_answers import KeptAnswers, RecentAnswers, keys_of, most_frequent
from iotid.model.network.sequence_counts import SequenceCounts
from iotid.model.network.sequences import distinct_sequences, logits_by_batch, step_counts
from iotid.model.network.shapes import shapes
from iotid.schemas import typed

if TYPE_CHECKING:
    from typing import TypeAlias

    import pandas as pd
    import pyarrow as pa
    import torch

    from iotid.dataset import EncodedFlows
    from iotid.model.network.ensemble import AdaptiveEnsemble

    FlowTable: TypeAlias = pa.Table | pa.RecordBatch | pd.DataFrame | list[Mapping[str, Any]] | Mapping[str, Any]

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
_VERSION = 5
_PREFIXES = ("memory.", "devices.", "answers.", "unlike_kind.")  # names of arrays that do not belong to the network
_BATCH_PACKETS = 4096  # packets of a batch: enough for the matrix units, few enough for the caches
_SLICE = 1_000_000  # flows encoded in one step; bounds the memory of a prediction
RECENT_BYTES = 1 << 25  # of the answers that a predictor keeps in memory


def save_bundle(
    folder: str | Path,
    weights: Mapping[str, torch.Tensor],
    settings: config.Model,
    encoding: Encoding,
    learned: Learned | None = None,
) -> None:
    """Write ``weights`` (the state of an AdaptiveEnsemble), ``learned`` and a description.

    Each file of ``folder`` is replaced atomically.
    """
    description = {
        "bundle_version": _VERSION,
        "flows_version": schemas.FLOWS.version,
        "code_version": __version__,
        "model": settings.model_dump(mode="json"),
        "encoding": encoding.to_json(),
    }
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in weights.items()}
    arrays |= (learned or Learned()).to_arrays()
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder) / WEIGHTS, safetensors.save(arrays))
    write_atomically(Path(folder) / DESCRIPTION, (json.dumps(description, indent=1) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any time leaves either the complete former file or the complete new one."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # fails if it exists, so it follows no link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Learned:
    """What a model has beside its network. Stored arrays of ``sequence_counts`` are named ``memory.*``.

    ``answers``: those of the network for sequences of training, from the machine that trained.
    """

    sequence_counts: SequenceCounts | None = None
    devices: DeviceModel | None = None
    answers: KeptAnswers | None = None

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All learned arrays by prefixed name; no weight of the network has one of these prefixes."""
        parts = {
            "memory": self.sequence_counts,
            "devices": self.devices,
            "answers": self.answers,
            "unlike_kind": self.devices.unlike_kind if self.devices else None,  # bundles may lack it
        }
        return {
            f"{part}.{name}": np.ascontiguousarray(array)
            for part, learned in parts.items()
            if learned is not None
            for name, array in learned.to_arrays().items()
        }

    @classmethod
    def specs(cls, encoding: Encoding) -> dict[str, Spec]:
        """Specifications of the arrays of ``to_arrays``, for a model with this encoding."""
        _, kind_C = kinds_of(encoding.labels, encoding.devices)
        parts = {
            "memory": SequenceCounts.specs(len(encoding.labels)),
            "devices": DeviceModel.specs(kind_C, len(encoding.vocabularies), encoding.max_packets),
            "answers": KeptAnswers.specs(len(encoding.labels)),
            "unlike_kind": UnlikeKind.specs(int(kind_C.max(initial=-1)) + 1),
        }
        return {f"{part}.{name}": spec for part, specs in parts.items() for name, spec in specs.items()}

    @classmethod
    def from_arrays(
        cls, stored: Mapping[str, NDArray[Any]], encoding: Encoding
    ) -> tuple[Learned, dict[str, NDArray[Any]]]:
        """Split a bundle's arrays into what was learned beside the network, and the network's weights.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """
        weights: dict[str, NDArray[Any]] = {}
        arrays: dict[str, dict[str, np.ndarray]] = {prefix.rstrip("."): {} for prefix in _PREFIXES}
        for name, array in stored.items():
            part, _, rest = name.partition(".")
            if part in arrays:
                arrays[part][rest] = array
            else:
                weights[name] = array
        counts, devices, answers = arrays["memory"], arrays["devices"], arrays["answers"]
        _, kind_C = kinds_of(encoding.labels, encoding.devices)
        model = DeviceModel.from_arrays(devices, kind_C, list(encoding.vocabularies)) if devices else None
        if unlike_kind := arrays["unlike_kind"]:
            if model is None:
                raise ValueError("arrays unlike_kind.*: must be absent, as there are no arrays devices.*")
            model.unlike_kind = UnlikeKind.from_arrays(unlike_kind)
        return cls(
            SequenceCounts.from_arrays(counts) if counts else None,
            model,
            KeptAnswers.from_arrays(answers) if answers else None,
        ), weights


@dataclass(frozen=True)
class StoredNetwork:
    """The network of a bundle, which `build` makes: what asks only the device model need not import torch."""

    settings: config.Model
    vocabulary_sizes: Mapping[str, int]
    weights: Mapping[str, NDArray[Any]]

    def build(self) -> AdaptiveEnsemble:
        import torch

        from iotid.model.network.ensemble import AdaptiveEnsemble

        model = AdaptiveEnsemble(self.settings, self.vocabulary_sizes, len(self.weights["classifier.bias"]))
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in self.weights.items()})
        return model


class Predictor:
    """A trained model with its vocabularies and labels; scores tables of flows. Threads may share one.

    The network is asked once for each sequence: its answers for training's are in the bundle, and those that were used
    last stay in memory, up to ``recent_bytes`` (0: none).

    The network's answer for a flow depends on the flow's sequences alone, to the last bit: not on the other flows, nor
    their number or order, nor the number of threads. So an answer that is kept is the one that would be computed again
    by the same processor and version of torch; others may add in another order, so that last bits differ, also from
    those of answers in the bundle, which the machine that trained computed. If ``hidden_size`` is no multiple of
    32, the number of threads may change last bits, too.

    ``source``: the folder or address that it was loaded from.
    """

    source = ""

    def __init__(
        self,
        model: AdaptiveEnsemble | StoredNetwork,
        encoding: Encoding,
        learned: Learned | None = None,
        *,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self.encoding = encoding
        self.learned = learned or Learned()
        self.labels: tuple[str, ...] = tuple(encoding.labels)
        self._network = model
        self._settings = model.settings
        self._recent = RecentAnswers(len(encoding.labels), recent_bytes)
        self._equal_rows = 0  # not known yet

    @classmethod
    def load(cls, folder: str | Path, *, recent_bytes: int = RECENT_BYTES) -> Predictor:
        """The model in ``folder``. ``recent_bytes``: of the answers that it keeps in memory, at most; 0: none.

        Raises:
            InputError: ``folder`` is no path.
            SchemaError: the bundle has another version, or names a characteristic that this version lacks.
            DataError: a file is missing or damaged, an array differs from the description, or a value is not finite.
        """
        check_type("folder", folder, (str, Path), "the folder of a model's bundle")
        try:
            description = read_file(Path(folder) / DESCRIPTION)
            found = cls._of(
                description, lambda specs: read_arrays(Path(folder) / WEIGHTS, specs, _PREFIXES), recent_bytes
            )
            found.source = str(folder)
            return found
        except OSError as fault:
            raise DataError(
                f"model {folder}: {fault.filename} cannot be read ({fault.strerror}); train again"
            ) from None

    @classmethod
    def from_bytes(cls, weights: bytes, description: str | bytes, *, recent_bytes: int = RECENT_BYTES) -> Predictor:
        """The model whose two files have this content; takes and raises what ``load`` does."""
        return cls._of(
            description, lambda specs: parse_arrays(io.BytesIO(weights), len(weights), specs, _PREFIXES), recent_bytes
        )

    @classmethod
    def _of(
        cls,
        description: str | bytes,
        read: Callable[[Mapping[str, Spec]], Mapping[str, NDArray[Any]]],
        recent_bytes: int,
    ) -> Predictor:
        """Check the description, then the header of the weights, and only then read the weights."""
        try:
            stored = parse_object(description)
            typed.check(_Description, stored)
            versions = {name: stored[name] for name in ("bundle_version", "flows_version")}
        except ValueError as fault:
            raise DataError(f"{DESCRIPTION}: is not a model description ({fault}); train again") from None
        expected = {"bundle_version": _VERSION, "flows_version": schemas.FLOWS.version}
        for name, version in versions.items():
            if version != expected[name]:
                remedy = f"train again, or serve it with iotid {shorten(stored['code_version'])}"
                raise SchemaError(f"{DESCRIPTION}: {name} must be {expected[name]}, got {version}; {remedy}")
        encoding = _encoding_of(stored)
        unknown = [name for name in encoding.vocabularies if name not in CHARACTERISTICS]
        if unknown:
            raise SchemaError(
                f"{DESCRIPTION}: reads {', '.join(map(shorten, unknown))}, which this iotid lacks; train again"
            )
        settings, sizes, classes = _settings_of(stored), vocabulary_sizes(encoding), len(encoding.labels)
        try:
            arrays = read({**network_specs(shapes(settings, sizes, classes)), **Learned.specs(encoding)})
            learned, own_weights = Learned.from_arrays(arrays, encoding)
            if (learned.sequence_counts is not None) != settings.sequence_counts:
                due = "present" if settings.sequence_counts else "absent"
                raise ValueError(
                    f"arrays memory.*: must be {due}, as model.sequence_counts is {settings.sequence_counts}"
                )
        except ValueError as fault:
            raise DataError(f"{WEIGHTS}: does not fit {DESCRIPTION} ({fault}); train again") from None
        return cls(StoredNetwork(settings, sizes, own_weights), encoding, learned, recent_bytes=recent_bytes)

    @cached_property
    def _model(self) -> AdaptiveEnsemble:
        network = self._network
        return (network.build() if isinstance(network, StoredNetwork) else network).eval()

    def __repr__(self) -> str:
        names, settings = list(self.encoding.vocabularies), self._settings
        parts = [
            self.source or "not saved",
            f"{len(self.labels)} labels",
            f"reads {', '.join(names)} of {self.encoding.max_packets} packets",
            f"{len(names) + 1} bi-LSTMs of {settings.layers} x {settings.hidden_size} units",
            f"{'with' if self.learned.devices else 'no'} device model",
        ]
        return f"Predictor({'; '.join(parts)})"

    def predict(self, flows: FlowTable) -> pa.Table:
        """One row of schemas.PREDICTIONS for each row of ``flows``, in the same order.

        ``flows``: a table or record batch, a pandas data frame, or a list with a dict for each flow. Only the columns
        ``encoding.columns`` of schemas.FLOWS are read. Equal sequences are scored once: most flows of a network are
        duplicates of others.

        Raises:
            InputError: ``flows`` is no table.
            SchemaError: a column that the model needs is missing or of another type, or a row cannot be a flow.
        """
        import pyarrow as pa

        check_length(flows, self.encoding.length)
        table = flows_of(flows, self.encoding.columns, self.encoding.max_packets)
        starts = range(0, max(len(table), 1), _SLICE)
        return pa.concat_tables(self._predict(table.slice(at, _SLICE)) for at in starts)

    def class_probabilities(self, flows: FlowTable) -> pa.Table:
        """The probability of every class, float32: a column for each of ``labels``, row i for row i of ``flows``.

        Takes and raises what ``predict`` does.
        """
        import pyarrow as pa

        lists = one_chunk(self.predict(flows)["probabilities"])
        values_NC = lists.flatten().to_numpy().reshape(-1, len(self.labels))
        return pa.table({label: values_NC[:, column] for column, label in enumerate(self.labels)})

    def _predict(self, flows: pa.Table) -> pa.Table:
        import pyarrow as pa

        distinct_KDM, repeat_N = distinct_sequences(self.encoding.encode(flows))
        probabilities_DC = self.probabilities(distinct_KDM)
        best_D = probabilities_DC.argmax(axis=1) if len(probabilities_DC) else np.zeros(0, np.int64)
        offsets_D = np.arange(len(best_D) + 1, dtype=np.int32) * len(self.labels)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(best_D, pa.int32()), pa.array(self.labels)).cast(pa.string()),
            pa.array(probabilities_DC[np.arange(len(best_D)), best_D].astype(np.float64)),
            pa.array(out_of_vocabulary_rate(distinct_KDM)),
            pa.ListArray.from_arrays(offsets_D, probabilities_DC.ravel()),
        ]
        return pa.table(columns, schema=schemas.PREDICTIONS.arrow_schema()).take(pa.array(repeat_N))

    def probabilities(self, sequences: Mapping[str, np.ndarray], *, anew: bool = False) -> np.ndarray:
        """float32 (N, C) class probabilities of encoded flows, int32 (N, M).

        ``anew``: ask the network for every row, also where an answer is kept; the result is the same.
        """
        out_NC = self._computed(sequences) if anew else self._kept_or_computed(sequences)
        sequence_counts = self.learned.sequence_counts
        return sequence_counts.posterior(sequences, out_NC) if sequence_counts else out_NC

    def answers_to_keep(self, rows: EncodedFlows, max_bytes: int) -> KeptAnswers:
        """The network's answers for the sequences of ``rows`` with the most flows, of ``max_bytes`` at most."""
        sequences = most_frequent(rows, len(self.labels), max_bytes)
        return KeptAnswers.of(keys_of(sequences), self._computed(sequences))

    def _kept_or_computed(self, sequences: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (N, C) the network's probabilities."""
        keys_N = keys_of(sequences)
        out_NC = np.empty((len(keys_N), len(self.labels)), np.float32)
        kept = self.learned.answers
        at_N = kept.find(keys_N) if kept else np.full(len(keys_N), -1)
        if kept:
            out_NC[at_N >= 0] = kept.probabilities[at_N[at_N >= 0]]
        others = np.flatnonzero(at_N < 0)
        if not len(others):
            return out_NC
        keys_D, first_D, which = np.unique(keys_N[others], axis=0, return_index=True, return_inverse=True)
        distinct_DC = np.empty((len(keys_D), len(self.labels)), np.float32)
        new = np.flatnonzero(~self._recent.find(keys_D, distinct_DC))
        if len(new):
            rows = others[first_D[new]]
            distinct_DC[new] = self._computed({name: ids_NM[rows] for name, ids_NM in sequences.items()})
            self._recent.add(keys_D[new], distinct_DC[new])
        out_NC[others] = distinct_DC[which]
        return out_NC

    def _computed(self, sequences: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (N, C) the network's probabilities, computed in batches of similar length.

        A number of flows of each length whose products give each row the same bits makes the answers what the class
        promises.
        """
        import torch

        from iotid.model.network.ensemble import equal_rows

        self._equal_rows = self._equal_rows or equal_rows(self._model)
        counts_N = step_counts(sequences, self._settings.padding)
        out_NC = np.empty((len(counts_N), len(self.labels)), np.float32)
        with torch.inference_mode():
            for rows, logits_BC in logits_by_batch(
                self._model, sequences, counts_N, _BATCH_PACKETS, multiple=self._equal_rows
            ):
                out_NC[rows] = torch.softmax(logits_BC, dim=1).numpy()
        return out_NC


def network_specs(shapes_of_state: Mapping[str, tuple[int, ...]]) -> dict[str, Spec]:
    """Specifications of the arrays in a network's state."""
    return {name: Spec("F32", shape) for name, shape in shapes_of_state.items()}


class _Description(TypedDict):
    bundle_version: int
    flows_version: int
    code_version: str
    model: dict[str, Any]
    encoding: dict[str, Any]


def _encoding_of(stored: Mapping[str, Any]) -> Encoding:
    return Encoding.from_json(stored["encoding"], f"{DESCRIPTION}: encoding")


def _settings_of(stored: Mapping[str, Any]) -> config.Model:
    try:
        return config.make_section(config.Model, stored["model"])
    except SettingError as fault:
        raise DataError(f"{DESCRIPTION}: {fault}; train again") from None


def vocabulary_sizes(encoding: Encoding) -> dict[str, int]:
    """Number of ids of each characteristic, with padding and out-of-vocabulary, in the encoding's order."""
    return {name: vocabulary.size for name, vocabulary in encoding.vocabularies.items()}
