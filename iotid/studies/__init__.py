"""Research beside the nightly steps: comparisons, descriptions, the paper's experiments.

A study may import everything; nothing but the command line imports it.
"""
