"""Evaluates models and baselines: metrics, leakage, ceiling, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.evaluation.schema import Report, SystemReport, system_report
    from iotid.evaluation.scoring import evaluate
    from iotid.evaluation.step import Evaluation, evaluate_challenger

__all__ = ["Evaluation", "Report", "SystemReport", "evaluate", "evaluate_challenger", "system_report"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "schema": ["Report", "SystemReport", "system_report"],
        "scoring": ["evaluate"],
        "step": ["Evaluation", "evaluate_challenger"],
    },
)
