"""fuzz_capture.py [--seconds N] [--seeds DIR] [FILE …]: a coverage-guided search for captures that break the reader.

atheris drives the un-jitted kernels: container, compression, walk, decoding with every tunnel and fragments, splits
against one reader. What it finds stays in var/fuzz/finds (give the file's name to run it again); mended, it becomes a
file in tests/golden/captures. Runs in the main environment with atheris from .venv-peers (`make peers-setup`).
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import struct
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"
_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(Path(__file__).parent)]
sys.path += [str(folder) for folder in _ROOT.glob(".venv-peers/lib/python3*/site-packages")]  # behind all of ours

import atheris  # noqa: E402

with atheris.instrument_imports(include=["iotid"]):
    from invariants import EVERYTHING, check, settings_with

    import iotid.capture.decode.decoder
    import iotid.capture.reader  # noqa: F401

_LARGEST = 1536  # bytes of an input: enough for every header, and a run takes milliseconds
_SEED_BYTES = 1024
_LINKS = (0, 1, 9, 12, 50, 51, 101, 104, 105, 108, 113, 127, 228, 229, 239, 276)


_FRAMES = b"F"  # an input that starts so is frames, not a file: faults above the container are found faster that way


def capture_of(data: bytes) -> bytes:
    """The file of an input: itself, or a pcap of a link type and frames, each after its length."""
    if not data.startswith(_FRAMES):
        return data
    out = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINKS[data[1] % len(_LINKS)] if data[1:] else 1)]
    at = 2
    while at < len(data):
        frame = data[at + 1 : at + 1 + data[at]]
        out.append(struct.pack("<IIII", at, 0, len(frame), max(len(frame), data[at])) + frame)
        at += 1 + data[at]
    return b"".join(out)


def _frames_of(capture: bytes) -> bytes | None:
    """The first frames of a little-endian pcap as an input."""
    link = int.from_bytes(capture[20:24], "little")
    if capture[:4] != b"\xd4\xc3\xb2\xa1" or link not in _LINKS:
        return None
    out, at = _FRAMES + bytes([_LINKS.index(link)]), 24
    while at + 16 < len(capture) and len(out) < _LARGEST // 2:
        size = int.from_bytes(capture[at + 8 : at + 12], "little")
        frame = capture[at + 16 : at + 16 + min(size, 160)]
        out += bytes([len(frame)]) + frame
        at += 16 + size
    return out


def write_seeds(folder: Path, captures: Path | None) -> None:
    """A small capture of each kind to start from, and the first bytes of real ones where they are available."""
    dice = random.Random(1)
    ip = bytes.fromhex("4500002e000100004011000a0a0000010a0000020035003500 1a0000".replace(" ", "")) + bytes(18)
    for link in _LINKS:
        for order in "<>":
            frames = [dice.randbytes(12) + b"\x08\x00" + ip, ip, b"\2\0\0\0" + ip, bytes(14) + b"\x08\x00" + ip]
            head = struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
            records = [struct.pack(order + "IIII", i, i, len(f), len(f)) + f for i, f in enumerate(frames)]
            (folder / f"pcap-{link}-{'le' if order == '<' else 'be'}").write_bytes(head + b"".join(records))
    found = sorted(path for path in captures.rglob("*") if path.is_file()) if captures else []
    for number, path in enumerate(path for path in found if path.stat().st_size > 24):
        capture = path.read_bytes()
        (folder / f"real-{number}").write_bytes(capture[:_SEED_BYTES])
        frames = _frames_of(capture)
        if frames is not None:
            (folder / f"frames-{number}").write_bytes(frames)
    for number, path in enumerate(sorted((_ROOT / "tests" / "golden" / "captures").glob("*.bin"))):
        (folder / f"golden-{number}").write_bytes(path.read_bytes()[:_LARGEST])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--seeds", type=Path, help="folder of captures to start from")
    options.add_argument("files", nargs="*", help="run these files only")
    given = options.parse_args()
    finds, corpus = _ROOT / "var" / "fuzz" / "finds", _ROOT / "var" / "fuzz" / "corpus"
    for folder in (finds, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    write_seeds(corpus, given.seeds)
    settings = settings_with(**EVERYTHING)
    logging.disable()
    warnings.simplefilter("ignore", RuntimeWarning)  # digests and hashes wrap by design
    target = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "capture"

    def one(data: bytes) -> None:
        target.write_bytes(capture_of(data))
        check(target, settings)

    limits = ["-timeout=30", "-rss_limit_mb=2048", f"-max_len={_LARGEST}", f"-artifact_prefix={finds}/"]
    places = given.files or [str(corpus), f"-max_total_time={given.seconds}"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *places], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
