"""The results of `describe` in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from iotid.pages import percent
from iotid.studies.describe import ENTROPY, MEAN, Distributions, Spread
from iotid.studies.document import Block, Figure, Heading, Items, Paragraph, Table
from iotid.studies.figures import BOXES, SIMILAR_LABELS, UNITS, words
from iotid.studies.telling_pairs import TellingPair

_SHARES = (0.25, 0.5, 0.75)
_DECIMALS = {MEAN: 0, ENTROPY: 1}  # means are counted in whole units


def blocks(traffic: Distributions, groups: Mapping[str, Sequence[str]], drawn: Mapping[str, Path]) -> list[Block]:
    """``groups``: labels of one vendor and type; ``drawn``: figures by file name."""
    labels = sorted({label for label, _, _ in traffic})
    found: list[Block] = [
        Paragraph(
            f"{len(labels):,} labels. Of each flow the mean of its values is counted, and their entropy: 0 bits if all "
            "are equal. A number is the median over a label's flows, in brackets the quartiles: half of the flows lie "
            "between them."
        )
    ]
    for characteristic in dict.fromkeys(name for _, name, _ in traffic):
        title = words(characteristic)
        found.append(Heading(title[0].upper() + title[1:]))
        unit = f", {UNITS[characteristic]}" if characteristic in UNITS else ""
        head = ["label", "flows", f"mean{unit}", "entropy, bits"]
        rows = [
            [label, f"{traffic[label, characteristic, MEAN].flows.sum():,}", *_cells(traffic, label, characteristic)]
            for label in labels
            if (label, characteristic, MEAN) in traffic
        ]
        found.append(Table(f"{words(characteristic)} by label", head, rows))
        for suffix, alt in (
            (BOXES, "Box plots of mean and entropy of every label; the table above has medians and quartiles"),
            (SIMILAR_LABELS, "Cumulative distribution of the entropy, of labels of one vendor and type together"),
        ):
            if characteristic + suffix in drawn:
                found.append(Figure(drawn[characteristic + suffix], alt))
    similar = [(kind, ", ".join(own)) for kind, own in groups.items() if len(own) > 1]
    return [*found, Heading("Labels of one vendor and type"), Items(similar)] if similar else found


def pair_blocks(pairs: Mapping[str, Sequence[TellingPair]]) -> list[Block]:
    """A table of the telling pairs of each label."""
    rows = [
        [label, pair.packets, _share(pair), f"{pair.captures:,} of {pair.of:,}", _elsewhere(pair)]
        for label, own in pairs.items()
        for pair in own
    ]
    without = [label for label, own in pairs.items() if not own]
    found: list[Block] = [
        Heading("Telling pairs of packets"),
        Paragraph(
            "Two consecutive packets of a TCP connection in opposite directions, with their bytes of payload, that are "
            "in at least half of a label's captures and in a smaller share of those of any other label; requests and "
            "their answers are such pairs (Trimananda et al., NDSS 2020). Of each label those with the greatest "
            "difference."
        ),
        Table("Telling pairs of packets by label", ["label", "pair", "share", "captures", "other labels"], rows, 2),
    ]
    return [*found, Paragraph(f"Without such a pair: {', '.join(without)}.")] if without else found


def pair_lines(pairs: Mapping[str, Sequence[TellingPair]]) -> list[str]:
    """The most telling pair of each label that has one."""
    return [
        f"{label}: {own[0].packets}, in {_share(own[0])} of its captures, other labels: {_elsewhere(own[0])}"
        for label, own in pairs.items()
        if own
    ]


def _share(pair: TellingPair) -> str:
    return percent(pair.captures / pair.of)


def _elsewhere(pair: TellingPair) -> str:
    return f"{percent(pair.elsewhere)} of {pair.other}" if pair.other else "none"


def _cells(traffic: Distributions, label: str, characteristic: str) -> list[str]:
    return [_quartiles(traffic[label, characteristic, measure], decimals) for measure, decimals in _DECIMALS.items()]


def _quartiles(spread: Spread, decimals: int) -> str:
    first, middle, third = (f"{spread.quantile(share):,.{decimals}f}" for share in _SHARES)
    return f"{middle} ({first} to {third})"
