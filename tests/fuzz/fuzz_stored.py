"""fuzz_stored.py TARGET [--seconds N] [--seed N] [FILE …]: a search for files that break a reader, but for captures.

TARGET is one of `stored.TARGETS`: settings, device lists, metadata, reports, models, checkpoints. atheris drives the
reader; half of the inputs are made by the target's own mutations, which keep a document or a header whole. What it
finds stays in var/fuzz/finds. Runs in the main environment with atheris from .venv-peers (`make peers-setup`).
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(Path(__file__).parent)]
sys.path += [str(folder) for folder in _ROOT.glob(".venv-peers/lib/python3*/site-packages")]  # behind all of ours

import atheris  # noqa: E402
import torch  # noqa: E402, F401 - before the instrumentation, which is for iotid alone

with atheris.instrument_imports(include=["iotid"]):
    import stored

_LARGEST = 1 << 16  # bytes of an input


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("target", choices=sorted(stored.TARGETS))
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("files", nargs="*", help="run these files only")
    given = options.parse_args()
    target = stored.TARGETS[given.target]
    finds, corpus = _ROOT / "var" / "fuzz" / "finds", _ROOT / "var" / "fuzz" / f"corpus-{given.target}"
    for folder in (finds, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    logging.disable()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def one(content: bytes) -> None:
        stored.check(given.target, content, folder)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        changed = target.mutate(content, dice) if dice.random() < 0.5 else atheris.Mutate(content, most)
        return bytes(changed[:most])

    limits = ["-timeout=30", "-rss_limit_mb=3072", f"-max_len={_LARGEST}", f"-artifact_prefix={finds}/{given.target}-"]
    search = [str(corpus), f"-max_total_time={given.seconds}", f"-seed={given.seed}"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *(given.files or search)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
