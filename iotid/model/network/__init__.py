"""Encoded flows in, class probabilities out: the adaptive ensemble of stacked bi-LSTMs, and sequence counts."""
