"""Probabilities of classes, from the device model's answers."""

from __future__ import annotations

import numpy as np

from iotid.model.device import NO_KIND, Answer
from iotid.studies.split_run import probabilities_of_classes


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
        min_devices=number_BK,
        begins=number_BK,
        ends=number_BK,
        known_tokens=number_BK,
        similarity=np.zeros_like(host_BK),
    )


def test_probabilities_of_classes__a_class_has_its_share_of_its_kinds_probability() -> None:
    kind_C, all_C = np.array([0, 1, 0]), np.ones(3, bool)
    found = probabilities_of_classes(_answer([[0.8, 0.2]], [[0.75, 1.0, 0.25]]), kind_C, all_C)
    np.testing.assert_allclose(found, [[0.6, 0.2, 0.2]])
    none = probabilities_of_classes(_answer([[0.0, 0.0]], [[0.5, 1.0, 0.5]]), kind_C, all_C)
    np.testing.assert_allclose(none, [[1 / 3, 1 / 3, 1 / 3]])


def test_probabilities_of_classes__unlisted_devices_get_1_minus_the_likeliest_kind() -> None:
    answer = _answer([[0.7, 0.4], [0.1, 0.05]], [[1.0, 0.0, 1.0]] * 2)
    found = probabilities_of_classes(answer, np.array([0, NO_KIND, 1]), np.ones(3, bool))
    np.testing.assert_allclose(found, [np.array([0.7, 0.3, 0.4]) / 1.4, np.array([0.1, 0.9, 0.05]) / 1.05])


def test_probabilities_of_classes__classes_not_learned_get_0() -> None:
    answer = _answer([[0.5, 0.5, 0.3]], [[1.0, 0.5, 0.5, 1.0]])
    is_learned_C = np.array([True, False, False, True])
    found = probabilities_of_classes(answer, np.array([0, 1, 1, 2]), is_learned_C)
    np.testing.assert_allclose(found, [[0.625, 0, 0, 0.375]])
