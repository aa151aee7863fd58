"""Classes within a kind, where training showed not all of them."""

from __future__ import annotations

import numpy as np

from iotid.dataset import Sets
from iotid.model.device import DeviceModel


def test_answer__classes_that_training_never_showed_have_no_share_and_the_others_share_their_kind() -> None:
    kind_C = np.array([0, 0, 0, 1, 2])  # class 2 and all of kind 1 have no sets
    label_N = np.repeat([0, 1, 4], 20)
    unit_N = np.arange(60) // 5
    length_N1 = (2 + 10 * label_N + np.arange(60) % 5)[:, np.newaxis].astype(np.int32)
    sets = Sets.of({"packet_length": length_N1}, unit_N, label_N, np.ones(60, np.int64))
    answer = DeviceModel(kind_C).fit(sets).answer(sets.sequences, sets.flows)
    assert (answer.class_share[:, [2, 3]] == 0).all()
    np.testing.assert_allclose(answer.class_share[:, [0, 1, 4]] @ [[1, 0], [1, 0], [0, 1]], 1)
    assert answer.class_share[sets.label < 2, :2].argmax(axis=1).tolist() == sets.label[sets.label < 2].tolist()
    assert answer.host[:, 1].max() < 0.5  # the kind that was never shown is not found
