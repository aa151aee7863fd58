"""Mean and entropy of flows, counted in pieces, and their figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from scipy.stats import entropy

from iotid.studies import describe as traffic
from iotid.studies import description_text, document, figures
from iotid.studies.describe import ENTROPY, MEAN, Spread

_LISTS = [[40, 40, 60], [1500], [], [5, 6, 7, 8], [9, 9, 9, 9, 9]]


def test_measures__equal_numpy_and_scipy_on_each_list() -> None:
    found = traffic.measures(pa.array(_LISTS, pa.list_(pa.int32())))
    for number, values in enumerate(_LISTS):
        counts = np.unique(values, return_counts=True)[1]
        assert found[MEAN][number] == pytest.approx(np.mean(values) if values else 0)
        assert found[ENTROPY][number] == pytest.approx(entropy(counts, base=2) if values else 0)


def test_measures__of_a_slice_are_those_of_its_lists() -> None:
    whole = traffic.measures(pa.array(_LISTS, pa.list_(pa.int32())))
    part = traffic.measures(pa.array(_LISTS, pa.list_(pa.int32())).slice(1, 3))
    for measure in (MEAN, ENTROPY):
        np.testing.assert_allclose(part[measure], whole[measure][1:4])


def test_summarise__adds_counts_and_leaves_out_rare_labels() -> None:
    def piece(label: str, steps: list[int], flows: list[int]) -> pa.Table:
        rows = [[label, "packet_length", MEAN, step, count] for step, count in zip(steps, flows, strict=True)]
        return pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=traffic._COUNTED)

    found = traffic.summarise(
        pa.concat_tables([piece("cam", [60, 40], [1, 2]), piece("cam", [40], [5]), piece("plug", [1], [2])]), 3
    )
    (spread,) = found.values()
    assert (spread.values.tolist(), spread.flows.tolist()) == ([40.0, 60.0], [7, 1])


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_quantile__equals_numpys_on_the_flows_themselves(share: float) -> None:
    values, flows = np.array([1.0, 2.0, 5.0, 9.0]), np.array([3, 10, 4, 6])
    expected = np.quantile(np.repeat(values, flows), share, method="inverted_cdf")
    assert Spread(values, flows).quantile(share) == expected


def _synthetic(labels: int) -> traffic.Distributions:
    random = np.random.default_rng(1)
    found = {}
    for number in range(labels):
        for name in ("packet_length", "tcp_window"):
            for measure in (MEAN, ENTROPY):
                values = np.unique(random.integers(0, 400, 20) * (0.01 if measure == ENTROPY else 1.0))
                found[f"label {number:02} <$&>", name, measure] = Spread(values, random.integers(1, 9, len(values)))
    return found


@pytest.mark.parametrize("labels", [2, 40])
def test_draw_traffic__draws_every_characteristic(tmp_path: Path, labels: int) -> None:
    synthetic = _synthetic(labels)
    names = sorted({label for label, _, _ in synthetic})
    groups = {"pair": names[:2], "alone": names[:1], "nobody": ["x", "y"]}
    drawn = figures.draw_traffic(synthetic, groups, tmp_path)
    assert sorted(drawn) == sorted(path.name for path in tmp_path.iterdir())
    assert len(drawn) == 4
    for name in drawn:
        height, width, _ = imread(tmp_path / name).shape
        assert min(height, width) > 150
    assert imread(tmp_path / "packet_length_boxes.png").shape[0] > 30 * labels  # a line of its own for every label


def test_blocks__a_table_of_medians_and_every_figure(tmp_path: Path) -> None:
    synthetic = _synthetic(2)
    names = sorted({label for label, _, _ in synthetic})
    drawn = figures.draw_traffic(synthetic, {"pair": names}, tmp_path)
    found = description_text.blocks(synthetic, {"pair": names}, {name: tmp_path / name for name in drawn})
    tables = [block for block in found if isinstance(block, document.Table)]
    assert [table.head[2] for table in tables] == ["mean, bytes", "mean, bytes, unscaled"]
    spread = synthetic[names[0], "packet_length", MEAN]
    assert tables[0].rows[0][:2] == [names[0], f"{spread.flows.sum():,}"]
    assert tables[0].rows[0][2].startswith(f"{spread.quantile(0.5):,.0f} (")
    assert sorted(block.path.name for block in found if isinstance(block, document.Figure)) == sorted(drawn)
    page = document.page("Description x", "of flows", found)
    assert (page.count("<img"), page.count("label 00 &lt;$&amp;&gt;")) == (4, 3)
