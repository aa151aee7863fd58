"""Says on stderr that long work still runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

_EVERY_S = 4.0


@contextmanager
def progress(what: str) -> Iterator[None]:
    """A line on stderr every few seconds while the block runs; quick work prints none."""
    is_done, started = threading.Event(), time.monotonic()

    def report() -> None:
        while not is_done.wait(_EVERY_S):
            click.echo(f"{what}: {time.monotonic() - started:.0f} s", err=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
