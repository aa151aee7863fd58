"""What a fold makes of the device model's answers."""

from __future__ import annotations

import numpy as np

from iotid.evaluation.fold import _of_classes
from iotid.model.device import NO_KIND, Answer


def _answer(host: list[list[float]], class_share: list[list[float]]) -> Answer:
    host_BK = np.array(host)
    nothing_B, number_BK = np.zeros(len(host_BK)), np.zeros((len(host_BK), host_BK.shape[1] + 1), np.int64)
    return Answer(
        host=host_BK,
        household=np.zeros_like(host_BK),
        log_odds=nothing_B,
        class_share=np.array(class_share),
        unexplained=nothing_B,
        unknown=nothing_B,
        flows=number_BK,
        distinct=number_BK[:, 0],
    )


def test_of_classes__a_class_has_its_share_of_what_its_kind_has() -> None:
    answer = _answer([[0.8, 0.2], [0.0, 0.0]], [[0.75, 1.0, 0.25], [0.5, 1.0, 0.5]])
    expected = [[0.6, 0.2, 0.2], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(_of_classes(answer, np.array([0, 1, 0])), expected)
    # 1.1 in all, with the kinds' 0.7 and 0.4, and what the likeliest leaves to unlisted devices: 0.3
    answer = _answer([[0.7, 0.4]], [[1.0, 0.0, 1.0]])
    np.testing.assert_allclose(_of_classes(answer, np.array([0, NO_KIND, 1])), np.array([[0.7, 0.3, 0.4]]) / 1.4)
