"""Research beside the nightly steps; may import everything, and only the command line imports it.

* `compare` (with `protocols`, `study`, `fold`, `votes`): the ensemble and its baselines under several protocols.
* `open_set`: detection of kinds that were not learned, under the protocol ``devices_out``.
* `households`: which kinds are found behind one address.
* `describe`, `figures`: distributions of each label's traffic.
* `paper`, `reproduction`: the paper's printed numbers beside measured ones.

To add a study: 1. write a module of pure functions from `LabelledFlows` or tables to a `TypedDict` of numbers; 2. write
its tables as Markdown and its figures in `figures`; 3. add a command in `iotid.cli` that reads partitions, calls it and
writes one partition; 4. test it on made-up flows with a known answer; 5. add its figures to docs/results.
"""
