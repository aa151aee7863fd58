"""How good a model is, beside baselines, and how much of that is memory."""

from iotid.evaluation.evaluate import census_nights, evaluate
from iotid.evaluation.report import flat, quality, read_history, verdicts, write_report
from iotid.evaluation.schema import Report, SystemReport, system_report

__all__ = [
    "Report",
    "SystemReport",
    "census_nights",
    "evaluate",
    "flat",
    "quality",
    "read_history",
    "system_report",
    "verdicts",
    "write_report",
]
