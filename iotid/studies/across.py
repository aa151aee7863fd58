"""Scores the protocol ``across``: each site is left out of training once, and its devices are identified.

Every score is computed from the table of answers (`study.ProtocolResult.answers`), so it can be recomputed from the
stored file. The answers are for sets of flows: captures of a device, and all flows of a device. A device's kind, or
label, is learned if another site has one of it. Devices of other kinds are new: every name for them is wrong. Unlisted
devices are not scored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from iotid.model.device.decide import UNDECIDED, UNKNOWN
from iotid.studies.split_run import CAPTURES, DEVICE_MODEL, DEVICES, RIGHT, WRONG

if TYPE_CHECKING:
    import pyarrow as pa

FIRST = 5  # ranks that count beside the first
OUTCOMES = (RIGHT, WRONG, UNDECIDED, UNKNOWN)
_Row = Mapping[str, Any]


class AcrossScore(TypedDict):
    """Of one system: the numbers of captures, or of devices, of learned kinds (``sets``), and of those among them whose
    label is learned (``models``). Of the first: shares whose kind has the first rank, or one of the first five; of the
    second the same by label, null without any."""

    sets: int
    models: int
    kind_first: float
    kind_in_first_five: float
    model_first: float | None
    model_in_first_five: float | None


class Pair(TypedDict):
    """A device of a site that was left out of training.

    ``first`` and ``in_first_five``: system -> share of its captures whose kind has that rank; ``device_rank``: system
    -> the kind's rank for all of its flows, 0 without any. All three are empty for a new kind. ``census``: outcome of a
    census -> share of captures; ``device_census``: the outcome for all flows; ``mostly``: the label that the device
    model gives most often where a census finds a kind.
    """

    site: str
    device: str
    label: str
    kind: str
    kind_is_learned: bool
    label_is_learned: bool
    captures: int
    first: dict[str, float]
    in_first_five: dict[str, float]
    device_rank: dict[str, int]
    census: dict[str, float]
    device_census: str
    mostly: str | None


class Across(TypedDict):
    """``candidates``: site left out -> number of learned kinds, among which its devices are ranked; ``systems``: system
    -> captures or devices -> scores; ``census``: captures or devices -> known (of learned kinds)
    or new -> outcome of a census with the device model -> share, empty without any; ``sets``: their numbers."""

    candidates: dict[str, int]
    systems: dict[str, dict[str, AcrossScore]]
    sets: dict[str, dict[str, int]]
    census: dict[str, dict[str, dict[str, float]]]
    pairs: list[Pair]


def evaluate(answers: pa.Table) -> Across:
    """``answers``: columns system, of, site, device, label, kind, answer, label_rank, kind_rank, outcome."""
    import pyarrow.compute as pc

    is_set = (pc.field("of") == CAPTURES) | (pc.field("of") == DEVICES)
    rows = answers.filter(is_set & pc.field("kind").is_valid()).to_pylist()
    sites_of = {field: _sites_of(rows, field) for field in ("kind", "label")}

    def is_learned(row: _Row, field: str) -> bool:
        return bool(sites_of[field][row[field]] - {row["site"]})

    known = [row for row in rows if is_learned(row, "kind")]
    decided = [row for row in rows if row["system"] == DEVICE_MODEL]
    by_system = _groups(known, lambda row: (row["system"], row["of"]))
    systems: dict[str, dict[str, AcrossScore]] = defaultdict(dict)
    for (system, of), own in by_system.items():
        systems[system][of] = _score(own, [row for row in own if is_learned(row, "label")])
    by_state = _groups(decided, lambda row: (row["of"], "known" if is_learned(row, "kind") else "new"))
    census = {of: {state: by_state.get((of, state), []) for state in ("known", "new")} for of in (CAPTURES, DEVICES)}
    pairs = _groups(rows, lambda row: (row["site"], row["device"]))
    return {
        "candidates": {
            site: sum(bool(own - {site}) for own in sites_of["kind"].values())
            for site in sorted({row["site"] for row in rows})
        },
        "systems": dict(systems),
        "sets": {of: {state: len(own) for state, own in states.items()} for of, states in census.items()},
        "census": {of: {state: _outcomes(own) for state, own in states.items()} for of, states in census.items()},
        "pairs": [
            _pair(own, kind_is_learned=is_learned(own[0], "kind"), label_is_learned=is_learned(own[0], "label"))
            for _, own in sorted(pairs.items())
        ],
    }


def _score(known: Sequence[_Row], of_models: Sequence[_Row]) -> AcrossScore:
    return {
        "sets": len(known),
        "models": len(of_models),
        "kind_first": _share(_within(known, "kind_rank", 1)),
        "kind_in_first_five": _share(_within(known, "kind_rank", FIRST)),
        "model_first": _share(_within(of_models, "label_rank", 1)) if of_models else None,
        "model_in_first_five": _share(_within(of_models, "label_rank", FIRST)) if of_models else None,
    }


def _pair(rows: Sequence[_Row], *, kind_is_learned: bool, label_is_learned: bool) -> Pair:
    captures, (whole, *_) = (
        [row for row in rows if row["of"] == of and row["system"] == DEVICE_MODEL] for of in (CAPTURES, DEVICES)
    )
    known = rows if kind_is_learned else []
    by_system = _groups([row for row in known if row["of"] == CAPTURES], lambda row: row["system"])
    scores = {system: _score(own, []) for system, own in by_system.items()}
    named = Counter(row["answer"] for row in captures if row["outcome"] in (RIGHT, WRONG))
    return {
        "site": whole["site"],
        "device": whole["device"],
        "label": whole["label"],
        "kind": whole["kind"],
        "kind_is_learned": kind_is_learned,
        "label_is_learned": label_is_learned,
        "captures": len(captures),
        "first": {system: score["kind_first"] for system, score in scores.items()},
        "in_first_five": {system: score["kind_in_first_five"] for system, score in scores.items()},
        "device_rank": {row["system"]: row["kind_rank"] for row in known if row["of"] == DEVICES},
        "census": _outcomes(captures),
        "device_census": whole["outcome"],
        "mostly": min(named, key=lambda label: (-named[label], label)) if named else None,
    }


def _outcomes(rows: Sequence[_Row]) -> dict[str, float]:
    return {outcome: _share([row["outcome"] == outcome for row in rows]) for outcome in OUTCOMES if rows}


def _within(rows: Sequence[_Row], rank: str, most: int) -> list[bool]:
    return [1 <= row[rank] <= most for row in rows]  # 0: of probability 0


def _share(is_so: Sequence[bool]) -> float:
    return sum(is_so) / len(is_so)


def _sites_of(rows: Iterable[_Row], field: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row[field]].add(row["site"])
    return found


def _groups(rows: Iterable[_Row], key: Callable[[_Row], Any]) -> dict[Any, list[_Row]]:
    found: dict[Any, list[_Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found
