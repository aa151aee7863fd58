"""How good a model is, beside whom, how much of that is memory, and whether it should serve."""

from iotid.evaluation.decide import Decision, decide
from iotid.evaluation.evaluate import census_nights, evaluate
from iotid.evaluation.report import flat, quality, read_history, verdicts, write_report
from iotid.evaluation.schema import Report, SystemReport, system_report

__all__ = [
    "Decision",
    "Report",
    "SystemReport",
    "census_nights",
    "decide",
    "evaluate",
    "flat",
    "quality",
    "read_history",
    "system_report",
    "verdicts",
    "write_report",
]
