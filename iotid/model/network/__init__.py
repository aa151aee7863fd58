"""Class probabilities of encoded flows: the adaptive ensemble of stacked bi-LSTMs, and sequence counts."""
