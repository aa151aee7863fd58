"""Logs a bundle (the folder of a trained model) as an MLflow model with its serving code, downloads and loads it."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from iotid import config, schemas
from iotid.errors import UserError
from iotid.inputs import check_type
from iotid.tracking.client import existing_server, first_line, is_outage, mlflow, with_retries
from iotid.tracking.locations import check_locations
from iotid.tracking.runs import FINGERPRINT

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.model import Predictor

_BUNDLE = "bundle"
_SERVED_WITH = ("iotid", "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch")


def load(uri: str, tracking_uri: str | Path | None = None) -> Predictor:
    """Load a registered model, as in ``load("models:/iotid@champion").predict(flows)``. Writes nothing.

    ``tracking_uri``: of a server or database, or a storage root; by default MLflow's own (MLFLOW_TRACKING_URI, or what
    was set).

    Raises:
        InputError: an argument is of another type.
        UserError: there is no such model or database, the server does not answer, or its address contains credentials.
        SchemaError: the model is of another schema version.
    """
    from iotid.model import Predictor

    check_type("uri", uri, str, "'models:/iotid@champion'")
    name, alias, number = _parse(uri)
    server = existing_server(tracking_uri)
    if alias is not None:
        number = with_retries(server, lambda: _client(server).get_model_version_by_alias(name, alias)).version
    with TemporaryDirectory() as folder:
        model = Predictor.load(download_bundle(f"models:/{name}/{number}", folder, server))
    model.source = f"models:/{name}/{number}"
    return model


def _client(server: str) -> Any:
    return mlflow().MlflowClient(tracking_uri=server, registry_uri=server)


def download_bundle(uri: str, into: str | Path, server: str) -> Path:
    """Download the bundle of models:/NAME@ALIAS or models:/NAME/VERSION, for ``Predictor.load``.

    Raises:
        UserError: there is none, or the server does not answer.
    """

    def locate() -> str:
        check_locations(server)
        client = _client(server)
        name, alias, number = _parse(uri)
        number = number or client.get_model_version_by_alias(name, alias).version
        return f"{client.get_model_version_download_uri(name, number)}/artifacts/{_BUNDLE}"

    return download(uri, locate, into, server)


def download(name: str, locate: Callable[[], str], into: str | Path, server: str) -> Path:
    """Download the artifacts at the address that ``locate`` returns; errors call them ``name``.

    Raises:
        UserError: there are none, or the server does not answer.
    """

    def fetch() -> Path:
        library = mlflow()
        try:
            return Path(library.artifacts.download_artifacts(locate(), dst_path=str(into), tracking_uri=server))
        except (library.exceptions.MlflowException, OSError) as fault:
            if is_outage(fault):
                raise
            raise UserError(f"registry {server}: {name} is not available ({first_line(fault)})") from None

    return with_retries(server, fetch)


def log_bundle(client: Any, run_id: str, name: str, bundle_folder: Path, example: pa.Table) -> Any:
    """Log the bundle as an MLflow model from code. Returns MLflow's LoggedModel.

    Uses single client calls, because ``log_model`` depends on the process's current run and experiment. Idempotent for
    each run and bundle.
    """
    from iotid.model.bundle import DESCRIPTION, WEIGHTS

    library, run, files = mlflow(), client.get_run(run_id), (WEIGHTS, DESCRIPTION)
    experiment = run.info.experiment_id
    fingerprint = hashlib.sha256(b"".join((bundle_folder / file).read_bytes() for file in files)).hexdigest()
    logged = f"source_run_id = '{run_id}' and tags.{FINGERPRINT} = '{fingerprint}'"
    model = next(iter(client.search_logged_models([experiment], logged)), None)
    model = model or client.create_logged_model(experiment, name, run_id, {FINGERPRINT: fingerprint}, run.data.params)
    with TemporaryDirectory() as folder:
        bundle, path = Path(folder) / _BUNDLE, Path(folder) / "model"
        bundle.mkdir()
        for file in files:
            shutil.copyfile(bundle_folder / file, bundle / file)
        library.pyfunc.save_model(
            path,
            mlflow_model=library.models.Model(run_id=run_id, model_uuid=model.model_id, model_id=model.model_id),
            python_model=config.package_dir() / "tracking" / "serving.py",
            artifacts={_BUNDLE: str(bundle)},
            signature=_signature(example.schema),
            input_example=example.to_pandas(),
            pip_requirements=[f"{package}=={installed(package)}" for package in _SERVED_WITH],
        )
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        client.log_outputs(run_id, [library.entities.LoggedModelOutput(model.model_id, 0)])
    return model


def _parse(uri: str) -> tuple[str, str | None, str | None]:
    """Name, and alias or version."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if match is None:
        raise UserError(
            f"model {uri}: must read models:/NAME@ALIAS or models:/NAME/VERSION; a bundle's folder is for "
            "iotid.model.Predictor.load"
        )
    name, alias, number = match.groups()
    return name, alias, number


def _signature(example: pa.Schema) -> Any:
    """Columns of the input (as in the example) and of `serving.FlowModel`'s answers, in MLflow's types."""
    import pyarrow as pa
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Map

    types = {"string": DataType.string, "double": DataType.double, "float": DataType.float}
    types |= {"int32": DataType.long, "int64": DataType.long}  # JSON and Python have one integer type

    def columns(schema: pa.Schema) -> Any:
        return Schema(
            [
                ColSpec(Array(types[str(field.type.value_type)]), field.name)
                if str(field.type).startswith("list")
                else ColSpec(types[str(field.type)], field.name)
                for field in schema
            ]
        )

    plain = columns(pa.schema([field for field in schemas.PREDICTIONS.arrow_schema() if field.name != "probabilities"]))
    answers = Schema([*plain.inputs, ColSpec(Map(DataType.float), "probabilities")])
    return ModelSignature(inputs=columns(example), outputs=answers)
