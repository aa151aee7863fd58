"""Captures of made-up devices, for the demo, tests and benchmarks."""
