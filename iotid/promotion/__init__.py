"""Which of two models should serve, by a written policy."""

from iotid.promotion.policy import Decision, decide

__all__ = ["Decision", "decide"]
