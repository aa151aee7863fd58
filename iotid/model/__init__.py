"""The adaptive ensemble, and the folder in which a trained one is kept with its vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.model.bundle import Predictor, save_bundle
    from iotid.model.ensemble import AdaptiveEnsemble

__all__ = ["AdaptiveEnsemble", "Predictor", "save_bundle"]


def __getattr__(name: str) -> Any:  # torch is loaded only by those who ask for a model
    if name == "AdaptiveEnsemble":
        from iotid.model import ensemble

        return ensemble.AdaptiveEnsemble
    if name in __all__:
        from iotid.model import bundle

        return getattr(bundle, name)
    raise AttributeError(name)
