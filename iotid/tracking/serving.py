"""The serving code of a model: MLflow logs this file with the model and executes it; nothing is unpickled.

Only MLflow imports this module.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from iotid.model import Predictor


class FlowModel(PythonModel):
    """Scores a data frame with FLOWS columns (lists of packets in its cells); returns one with PREDICTIONS columns.

    ``probabilities`` is a dict in each cell: the probability of each class by its name.
    """

    def load_context(self, context: Any) -> None:
        self._predictor = Predictor.load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        answers = self._predictor.predict(model_input).to_pandas()
        labels = self._predictor.labels
        named = [dict(zip(labels, row.tolist(), strict=True)) for row in answers["probabilities"]]
        return answers.assign(probabilities=pd.Series(named, index=answers.index, dtype=object))


set_model(FlowModel())
