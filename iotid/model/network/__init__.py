"""The adaptive ensemble of stacked bi-LSTMs."""
