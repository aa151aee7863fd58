"""Packets cut at random into partial flows merge into the flows of the reference implementation."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from flow_cutting import PATHS, Build, cut_at_random, cut_flows, partial_flows, row, rule, sort_key, through_partials
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid import config, schemas

RULES = st.builds(
    rule,
    max_packets=st.integers(1, 5),
    idle_timeout_s=st.sampled_from([None, 2, 10]),
    active_timeout_s=st.sampled_from([None, 3, 12.5]),
    tcp_close=st.booleans(),
    length=st.sampled_from(["ip", "frame"]),
    join_files=st.booleans(),
    keep_bytes=st.sampled_from([0, 5, 16]),
    keep_packets=st.integers(1, 5),
    header_fields=st.booleans(),
)


@hypothesis_settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 120), settings=RULES)
def test_cut__packets_cut_at_random_give_the_references_flows(
    seed: int, count: int, settings: config.Flow, random_rows: Any, packets_of: Build, reference: ModuleType
) -> None:
    rows = random_rows(seed, count, PATHS)
    kept = (settings.keep_bytes, settings.header_fields)
    runs = [packets_of(run, PATHS, *kept) for run in cut_at_random(rows, random.Random(seed))]
    expected = sorted(reference.flows(rows, PATHS, **settings.model_dump()), key=sort_key)
    assert through_partials(runs, settings) == expected
    alone = cut_flows(packets_of(rows, PATHS, *kept), settings, PATHS)
    assert sorted(alone.to_pylist(), key=sort_key) == expected


def test_kernels__pass_the_hand_made_cases_without_the_jit() -> None:
    files = [
        str(Path(__file__).parent / f"test_{name}.py")
        for name in ("cut", "cut_rules", "partial", "merge", "flow_columns", "header_columns")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *files, "-k", "not random and not batches and not jit"]
    done = subprocess.run(command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_schema__is_the_contract(packets_of: Build) -> None:
    flows = cut_flows(packets_of([row()], PATHS), rule(), PATHS)
    assert flows.schema == schemas.FLOWS.arrow_schema(stored=True)
    assert partial_flows(packets_of([], PATHS), rule()).schema == schemas.PARTIAL_FLOWS.arrow_schema()
