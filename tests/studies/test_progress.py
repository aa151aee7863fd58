"""Progress of a study, and an estimate of the rest that is no better than what is known."""

from __future__ import annotations

import pytest

from iotid.studies.progress import Progress, duration


def test_done__the_rest_is_a_range_from_the_shortest_piece_to_the_longest(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, 100.0, 400.0, 402.0])
    progress = Progress("training run", 3, clock=lambda: next(times))
    with caplog.at_level("INFO", logger="iotid.studies.progress"):
        for number in (1, 2, 3):
            progress.done(f"by_capture {number}")
    assert caplog.messages == [
        "training run 1 of 3 (by_capture 1) took 2 min; 2 left, about 3 min if each takes as long as those so far",
        "training run 2 of 3 (by_capture 2) took 5 min; 1 left, 2 min to 5 min if it takes as long as those so far",
        "training run 3 of 3 (by_capture 3) took 2 s; all done in 7 min",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (5_370, "1 h 30 min"), (7_500, "2 h 5 min")]
)
def test_duration__in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
