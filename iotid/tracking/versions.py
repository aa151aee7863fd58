"""Registers versions of the model, finds them by alias or number, tags and downloads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iotid.errors import NoModelError
from iotid.tracking import notes
from iotid.tracking.bundles import download, download_bundle, log_bundle
from iotid.tracking.client import Server, is_absent, mlflow
from iotid.tracking.runs import FINGERPRINT, Run, to_text

if TYPE_CHECKING:
    import pyarrow as pa

CHALLENGER = "challenger"
CHAMPION = "champion"


@dataclass(frozen=True)
class ModelVersion:
    """A version as the server described it when queried.

    ``run_id``: the run that trained it; ``date``: the day (UTC) on which it was registered, as YYYY-MM-DD.
    """

    number: int
    run_id: str
    date: str
    tags: Mapping[str, str]

    @property
    def quality(self) -> str | None:
        """Its scores in one sentence; None before its evaluation."""
        return self.tags.get("quality")

    @property
    def device_quality(self) -> str | None:
        """How many devices of the test split it named, in one sentence; None before its evaluation."""
        return self.tags.get("device_quality")


@dataclass(frozen=True)
class Registry(Server):
    """The versions of the model ``tracking.model``.

    Every method retries while the server is unreachable and raises a ServerError if it stays so.
    """

    def register(self, run: Run, bundle_folder: str | Path, example: pa.Table) -> ModelVersion:
        """Register the bundle that a run trained as a new version, with alias `challenger`.

        ``example``: a few rows of FLOWS, the model's input example. The version has the run's tags, and tags for the
        flows that the model reads. Idempotent for each run and bundle, also if the server fails in between.
        """
        from iotid.model import Predictor

        encoding = Predictor.load(bundle_folder).encoding

        def register(client: Any) -> ModelVersion:
            run_tags = client.get_run(run.id).data.tags
            tags = {key: value for key, value in run_tags.items() if not key.startswith(("mlflow.", FINGERPRINT))}
            tags |= {"max_packets": str(encoding.max_packets), "length": encoding.length}
            tags |= {"characteristics": to_text(list(encoding.vocabularies)), "protocols": to_text(encoding.protocols)}
            reads = notes.of_inputs(encoding.max_packets, list(encoding.vocabularies), encoding.protocols)
            note = notes.with_section("", "Training", f"{notes.of_training(tags)} {reads}")
            columns = example.select(list(encoding.columns))
            model = log_bundle(client, run.id, self.tracking.model, Path(bundle_folder), columns)
            self.create_model(client)
            # the location, not the models:/ URI, which the embedded store resolves in the process's current store
            name, location = self.tracking.model, model.artifact_location
            registered = client.search_model_versions(f"run_id = '{run.id}'")
            version = next((known for known in registered if (known.name, known.source) == (name, location)), None)
            version = version or client.create_model_version(
                name, location, run.id, tags, description=note, model_id=model.model_id
            )
            client.set_registered_model_alias(name, CHALLENGER, version.version)
            return _model_version(version)

        return self.call(register)

    def create_model(self, client: Any) -> None:
        """Create the registered model if absent, and describe it if nobody has done so."""
        try:
            known = client.get_registered_model(self.tracking.model)
        except mlflow().exceptions.MlflowException as fault:
            if not is_absent(fault):
                raise
            client.create_registered_model(self.tracking.model, description=notes.MODEL)
        else:
            if not known.description:
                client.update_registered_model(self.tracking.model, notes.MODEL)

    def find_version(self, alias: str) -> ModelVersion | None:
        """The version that has the alias, or None.

        Raises:
            UserError: ``tracking.uri`` names a database that does not exist.
        """

        def find(client: Any) -> ModelVersion | None:
            try:
                return _model_version(client.get_model_version_by_alias(self.tracking.model, alias))
            except mlflow().exceptions.MlflowException as fault:
                if is_absent(fault):
                    return None
                raise

        return self.call(find) if self.has_store() else None

    def version_of(self, alias: str) -> ModelVersion:
        """The version that has the alias.

        Raises:
            NoModelError: there is none.
        """
        version = self.find_version(alias)
        if version is None:
            step = {CHAMPION: "promote", CHALLENGER: "train"}.get(alias, "train")
            raise NoModelError(
                f"registry {self.uri}: no version of {self.tracking.model} is {alias}; run iotid {step} first"
            )
        return version

    def version(self, number: int) -> ModelVersion:
        """The version with this number.

        Raises:
            UserError: there is none.
        """
        return self.call(lambda client: _model_version(client.get_model_version(self.tracking.model, str(number))))

    def set_tag(self, number: int, key: str, value: str) -> None:
        self.call(lambda client: client.set_model_version_tag(self.tracking.model, str(number), key, value))

    def add_note(self, number: int, title: str, text: str) -> None:
        """Set the section ``title`` of the version's description."""

        def change(client: Any) -> None:
            name, which = self.tracking.model, str(number)
            former = client.get_model_version(name, which).description
            client.update_model_version(name, which, notes.with_section(former, title, text))

        self.call(change)

    def artifact(self, version: ModelVersion, path: str, into: str | Path) -> Path:
        """Download a file or folder from the artifacts of the version's run.

        Raises:
            UserError: there is no such artifact.
        """
        return download(path, lambda: f"runs:/{version.run_id}/{path}", into, self.uri)

    def bundle(self, which: int | str, into: str | Path) -> Path:
        """Download the bundle, for ``Predictor.load``; ``which`` is a version number, an alias or a models:/ URI."""
        if isinstance(which, int) or which.isdecimal():
            uri = f"models:/{self.tracking.model}/{which}"
        else:
            uri = which if which.startswith("models:/") else f"models:/{self.tracking.model}@{which}"
        return download_bundle(uri, into, self.uri)


def _model_version(entity: Any) -> ModelVersion:
    registered = datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC)
    return ModelVersion(int(entity.version), str(entity.run_id), registered.date().isoformat(), dict(entity.tags))
