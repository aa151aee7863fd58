"""Decides by a written policy which of two models serves, and acts on the decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.promotion.policy import Decision, decide
    from iotid.promotion.step import Promotion, promote

__all__ = ["Decision", "Promotion", "decide", "promote"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "policy": ["Decision", "decide"],
        "step": ["Promotion", "promote"],
    },
)
