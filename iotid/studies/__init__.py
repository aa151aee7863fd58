"""Experiments outside the nightly run. Studies may import every package; only the command line imports them.

* `compare` (with `protocols`, `study`, `split_run`, `votes`): the ensemble and its baselines under several split
  protocols.
* `open_set`: detection of kinds that were not in training, under the split protocol ``devices_out``.
* `households`: which kinds are found at one address.
* `describe`, `figures`: distributions of each label's traffic.
* `reproduce` runs the paper's experiment; `paper` reads the printed numbers, and `paper_comparison` compares them with
  the measured ones.

To add a study: 1. write a module of pure functions from `LabelledFlows` or tables to a `TypedDict` of numbers; 2. write
its tables as Markdown and its figures in `figures`; 3. add a command in `iotid.cli` that reads partitions, calls it and
writes one partition; 4. test it on synthetic flows with a known result; 5. add its figures to docs/results.
"""
