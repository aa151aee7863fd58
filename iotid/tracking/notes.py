"""The texts that the MLflow UI shows as descriptions: of the experiment, of runs, of the model and its versions.

Markdown. A description has one section for each step that wrote something; steps replace their own section only, so
that what persons write beside them stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

EXPERIMENT = """\
iotid identifies the IoT devices behind network captures. Each run here is one of:

* **a training** (tag `step`: train), named after its dataset and a hash of its settings. Metrics of each epoch: `loss`,
  `validation_macro_f1` and times. After `iotid evaluate`: `test.SYSTEM.METRIC`, where SYSTEM is the model
  (`challenger`), the model in use (`champion`) or a baseline; `_merged` counts look-alikes of one vendor and type as
  one label. Artifacts: `training/`, `report/report.html`, `decision/`.
* **a comparison** of methods (tag `step`: compare): `PROTOCOL.SYSTEM.UNIT.METRIC`, for each way to divide captures into
  training and test data. Artifact: `comparison/comparison.md`.

Read scores beside `test.leakage`, the share of test flows whose sequence is in the training data with the same label,
and `test.ceiling`, the best accuracy that any method can reach that gives flows with equal sequences equal answers.
"""

MODEL = """\
The adaptive ensemble of iotid: from the first packets of a flow (lengths, TCP windows and the like, no payload) to the
device kind that sent it, and from the flows of an address to the devices behind it.

* Alias `challenger`: the version that was trained last. Alias `champion`: the one that the nightly census uses.
* The tag `quality` of a version has its scores, `decision` why it was promoted or refused.
* `iotid promote` makes the challenger the champion if the policy (conf/promotion.yaml) allows it, `iotid rollback`
  restores the former one.
* In Python: `iotid.tracking.load("models:/NAME@champion").predict(flows)`.
"""

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


def with_section(note: str | None, title: str, text: str) -> str:
    """The note with the section ``title`` replaced by ``text``, or with that section added at its end."""
    section = f"### {title}\n\n{text}\n"
    parts = [part for part in re.split(r"(?m)^(?=### )", note or "") if part.strip()]
    titles = [part.partition("\n")[0] for part in parts]
    if f"### {title}" in titles:
        parts[titles.index(f"### {title}")] = section
    else:
        parts.append(section)
    return "\n".join(f"{part.strip()}\n" for part in parts)


def of_training(tags: Mapping[str, str]) -> str:
    """What a model was trained on, from the tags of its run."""
    labels = f", whose labels are each device's {tags['label']}" if "label" in tags else ""
    split = f"; divided by the protocol {tags['split_protocol']}" if "split_protocol" in tags else ""
    contents = f"\n\n{tags['dataset_summary']}." if "dataset_summary" in tags else ""
    return f"Adaptive ensemble trained on dataset `{tags.get('dataset', 'unknown')}`{labels}{split}.{contents}"


def of_inputs(max_packets: int, characteristics: Sequence[str], protocols: Sequence[int]) -> str:
    """What a model reads of a flow."""
    names = ", ".join(_PROTOCOLS.get(number, f"IP protocol {number}") for number in protocols)
    return f"Reads {', '.join(characteristics)} of the first {max_packets} packets of flows ({names})."


def of_evaluation(dataset: str, leakage: float, ceiling: float, sentences: Sequence[str]) -> str:
    """How good the systems are on a dataset; ``sentences``: one for each trained model."""
    scores = "\n".join(f"* {sentence}" for sentence in sentences)
    return (
        f"On the test part of dataset `{dataset}`:\n\n{scores}\n\nLeakage {100 * leakage:.1f} %, ceiling "
        f"{100 * ceiling:.1f} %. The report is the artifact `report/report.html` of the run that trained the model."
    )


def of_decision(number: int, promoted: bool, reasons: Sequence[str]) -> str:
    """Whether the version became the champion, and why."""
    rules = "\n".join(f"* {reason}" for reason in reasons)
    return f"Version {number} {'became the champion' if promoted else 'was refused'}:\n\n{rules}"
