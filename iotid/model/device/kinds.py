"""The device kinds of a model's classes.

A device kind is a vendor and type: classes of one vendor and type are one kind, because most of their flows are equal.

Shape suffixes: C classes, K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from iotid.labels.devices import UNLISTED, device_kind

NO_KIND = -1  # of the class of unlisted devices


def kinds_of(
    labels: Sequence[str], known_devices: Mapping[str, Mapping[str, str | None]]
) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the kinds, sorted, and (C,) the kind of each class; NO_KIND of the class of unlisted devices.

    ``known_devices``: vendor and type of each label, as `Encoding.devices` has them.
    """
    names = [device_kind(label, known_devices.get(label, {})) for label in labels]
    kinds = sorted({name for name, label in zip(names, labels, strict=True) if label != UNLISTED})
    index = {name: number for number, name in enumerate(kinds)}
    kind_C = [index[name] if label != UNLISTED else NO_KIND for name, label in zip(names, labels, strict=True)]
    return kinds, np.array(kind_C, np.int64)
