"""The serving code of a model: MLflow logs this file with the model and executes it; nothing is unpickled.

Only MLflow imports this module.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from iotid.model import Predictor
from iotid.schemas import FLOWS


class FlowModel(PythonModel):
    """Scores a data frame with FLOWS columns (lists of packets in its cells); returns one with PREDICTIONS columns."""

    def load_context(self, context: Any) -> None:
        self._predictor = Predictor.load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        columns = self._predictor.encoding.columns
        schema = pa.schema([field for field in FLOWS.arrow_schema() if field.name in columns])
        flows = pa.Table.from_pandas(model_input, schema=schema, preserve_index=False)
        return self._predictor.predict(flows).to_pandas()


set_model(FlowModel())
