"""What it costs to look into a file of 2 GB: memory and time of the header alone, of the whole, and of a stop.

``python -m benchmarks.large_file [--megabytes 2000]`` writes a safetensors file that is mostly a hole (it takes
next to no room on the disk, yet is read in full), and runs each step in a process of its own. Memory is the largest
resident memory of that process and of its child, added up, as the system counts them.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HEADER = """
from sane_engine.intake import list_checkpoints
found, = list_checkpoints(path)
notes["tensors"] = len(found.entries)
"""
_LOAD = """
from sane_engine.intake import load_checkpoint
reports = []
found = load_checkpoint(path, lazy=True, progress=lambda done, total, message: reports.append(done))
notes["sha256"] = found.provenance.sha256[:12]
notes["non_finite"] = found.tensors.non_finite(progress=lambda done, total, message: reports.append(done))
notes["progress reports"] = len(reports)
"""
_STATISTICS = """
from sane_engine import layer_features
from sane_engine.intake import load_checkpoint
found = load_checkpoint(path, lazy=True)
notes["layers"] = len(layer_features(found.tensors, "statistics"))
"""
_TOKENS = """
from sane_engine.intake import load_checkpoint
from sane_engine.tokens import layout_of
found = load_checkpoint(path, lazy=True)
notes["tokens"] = layout_of(found.tensors.shapes(), 64).n_tokens
"""
_STOP = """
from sane_engine import Cancelled
from sane_engine.intake import load_checkpoint
begun = time.perf_counter()
try:
    load_checkpoint(path, lazy=True, cancelled=lambda: time.perf_counter() - begun > 0.5)
except Cancelled:
    notes["stopped after asking, s"] = round(time.perf_counter() - begun - 0.5, 2)
"""
STEPS = {
    "header": _HEADER,
    "load and look": _LOAD,
    "statistics of all layers": _STATISTICS,
    "token layout": _TOKENS,
    "stop": _STOP,
}
_FRAME = """
import json, re, sys, time
from sane_engine.intake import child
path, notes, peaks = sys.argv[1], {}, [0]
answer = child._answer
def noted(*arguments):
    found = answer(*arguments)
    peaks.append((found or {}).get("peak_bytes", 0))
    return found
child._answer = noted
started = time.perf_counter()
"""
_END = """
seconds = time.perf_counter() - started
own = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
print(json.dumps({"seconds": seconds, "own": own, "child": max(peaks), "notes": notes}))
"""


def write_large(path: Path, megabytes: int, *, side: int = 2048) -> None:
    """A safetensors file of square float32 matrices, all zeros, as a hole in the disk."""
    n_bytes = 4 * side * side
    count = max(1, megabytes * 10**6 // n_bytes)
    header = {
        f"layers.{i}.weight": {
            "dtype": "F32",
            "shape": [side, side],
            "data_offsets": [i * n_bytes, (i + 1) * n_bytes],
        }
        for i in range(count)
    }
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + count * n_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_file", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the file (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-file-") as folder:
        path = Path(folder, "large.safetensors")
        write_large(path, arguments.megabytes)
        print(f"file: {path.stat().st_size / 1e6:,.0f} MB, {path.stat().st_blocks * 512 / 1e6:.1f} MB on the disk")
        for name, code in STEPS.items():
            begun = time.perf_counter()
            command = [sys.executable, "-c", _FRAME + code + _END, str(path)]
            outcome = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(outcome.stdout)
            whole = time.perf_counter() - begun
            print(
                f"{name}: {(found['own'] + found['child']) / 2**20:.0f} MiB "
                f"({found['own'] / 2**20:.0f} + child {found['child'] / 2**20:.0f}), "
                f"{found['seconds']:.2f} s ({whole:.2f} s with the start of Python), {found['notes']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
