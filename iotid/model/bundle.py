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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

import numpy as np
import torch
from safetensors import torch as safetensors

from iotid import __version__, config, schemas
from iotid.arrow import one_chunk
from iotid.dataset.characteristics import CHARACTERISTICS, Encoding, out_of_vocabulary_rate
from iotid.errors import DataError, SchemaError, SettingError, shorten
from iotid.flows.as_table import check_length, flows_of
from iotid.inputs import check_type, parse_object, read_file
from iotid.model.arrays import Spec, parse_arrays, read_arrays
from iotid.model.device import DeviceModel, kinds_of
from iotid.model.network.ensemble import AdaptiveEnsemble, shapes
from iotid.model.network.sequence_counts import SequenceCounts
from iotid.model.network.sequences import distinct_sequences, logits_by_batch, step_counts
from iotid.schemas import typed

if TYPE_CHECKING:
    from typing import TypeAlias

    import pandas as pd
    import pyarrow as pa

    FlowTable: TypeAlias = pa.Table | pa.RecordBatch | pd.DataFrame | list[Mapping[str, Any]] | Mapping[str, Any]

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
_VERSION = 5
_PREFIXES = ("memory.", "devices.")  # names of arrays that do not belong to the network
_BATCH_PACKETS = 4096  # packets of a batch: enough for the matrix units, few enough for the caches
_SLICE = 1_000_000  # flows encoded in one step; bounds the memory of a prediction


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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    tensors |= (learned or Learned()).to_tensors()
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder) / WEIGHTS, safetensors.save(tensors))
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
    """What a model learned beside its network. Stored arrays of ``sequence_counts`` are named ``memory.*``."""

    sequence_counts: SequenceCounts | None = None
    devices: DeviceModel | None = None

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """All learned arrays by prefixed name; no weight of the network has one of these prefixes."""
        parts = {"memory": self.sequence_counts, "devices": self.devices}
        return {
            f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for part, learned in parts.items()
            if learned is not None
            for name, array in learned.to_arrays().items()
        }

    @classmethod
    def specs(cls, encoding: Encoding) -> dict[str, Spec]:
        """Specifications of the arrays of ``to_tensors``, for a model with this encoding."""
        _, kind_C = kinds_of(encoding.labels, encoding.devices)
        parts = {
            "memory": SequenceCounts.specs(len(encoding.labels)),
            "devices": DeviceModel.specs(kind_C, len(encoding.vocabularies), encoding.max_packets),
        }
        return {f"{part}.{name}": spec for part, specs in parts.items() for name, spec in specs.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], encoding: Encoding
    ) -> tuple[Learned, dict[str, torch.Tensor]]:
        """Split a bundle's tensors into what was learned beside the network, and the network's weights.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """
        weights: dict[str, torch.Tensor] = {}
        arrays: dict[str, dict[str, np.ndarray]] = {"memory": {}, "devices": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part in arrays:
                arrays[part][rest] = tensor.numpy()
            else:
                weights[name] = tensor
        counts, devices = arrays["memory"], arrays["devices"]
        _, kind_C = kinds_of(encoding.labels, encoding.devices)
        return cls(
            SequenceCounts.from_arrays(counts) if counts else None,
            DeviceModel.from_arrays(devices, kind_C) if devices else None,
        ), weights


class Predictor:
    """A trained model with its vocabularies and labels; scores tables of flows.

    ``source``: the folder or address that it was loaded from.
    """

    source = ""

    def __init__(self, model: AdaptiveEnsemble, encoding: Encoding, learned: Learned | None = None) -> None:
        self.encoding = encoding
        self.learned = learned or Learned()
        self.labels: tuple[str, ...] = tuple(encoding.labels)
        self._model = model.eval()

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """The model in ``folder``.

        Raises:
            InputError: ``folder`` is no path.
            SchemaError: the bundle has another version, or names a characteristic that this version lacks.
            DataError: a file is missing or damaged, an array differs from the description, or a value is not finite.
        """
        check_type("folder", folder, (str, Path), "the folder of a model's bundle")
        try:
            description = read_file(Path(folder) / DESCRIPTION)
            found = cls._of(description, lambda specs: read_arrays(Path(folder) / WEIGHTS, specs, _PREFIXES))
            found.source = str(folder)
            return found
        except OSError as fault:
            raise DataError(
                f"model {folder}: {fault.filename} cannot be read ({fault.strerror}); train again"
            ) from None

    @classmethod
    def from_bytes(cls, weights: bytes, description: str | bytes) -> Predictor:
        """The model whose two files have this content; raises what ``load`` raises."""
        return cls._of(description, lambda specs: parse_arrays(io.BytesIO(weights), len(weights), specs, _PREFIXES))

    @classmethod
    def _of(
        cls, description: str | bytes, read: Callable[[Mapping[str, Spec]], Mapping[str, torch.Tensor]]
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
            tensors = read({**network_specs(shapes(settings, sizes, classes)), **Learned.specs(encoding)})
            learned, own_weights = Learned.from_tensors(tensors, encoding)
            if (learned.sequence_counts is not None) != settings.sequence_counts:
                due = "present" if settings.sequence_counts else "absent"
                raise ValueError(
                    f"arrays memory.*: must be {due}, as model.sequence_counts is {settings.sequence_counts}"
                )
        except ValueError as fault:
            raise DataError(f"{WEIGHTS}: does not fit {DESCRIPTION} ({fault}); train again") from None
        model = AdaptiveEnsemble(settings, sizes, classes)
        model.load_state_dict(own_weights)
        return cls(model, encoding, learned)

    def __repr__(self) -> str:
        names, settings = list(self.encoding.vocabularies), self._model.settings
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

    @torch.inference_mode()
    def probabilities(self, sequences: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (N, C) class probabilities of encoded flows, int32 (N, M), computed in batches of similar length."""
        counts_N = step_counts(sequences, self._model.settings.padding)
        out_NC = np.empty((len(counts_N), len(self.labels)), np.float32)
        for rows, logits_BC in logits_by_batch(self._model, sequences, counts_N, _BATCH_PACKETS):
            out_NC[rows] = torch.softmax(logits_BC, dim=1).numpy()
        sequence_counts = self.learned.sequence_counts
        return sequence_counts.posterior(sequences, out_NC) if sequence_counts else out_NC


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
