"""Simulates devices and writes their captures, for the demo, tests and benchmarks."""
