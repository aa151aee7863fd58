"""Captures of simulated devices, for the demo, tests and benchmarks."""
