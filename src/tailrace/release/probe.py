"""A graph of a stranger's, computed once in a process of its own that may take only so much memory.

A graph may ask for memory that no file holds: a `ConstantOfShape` of 100 GB is a few bytes. What a graph's own tensors
promise is seen in its bytes; what its operators make of them is seen when it runs. So one with an operator that makes
tensors larger than what it is given is run first where it can do no harm. All others run here, at once.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

GROWING: Final = (
    b"ConstantOfShape", b"Expand", b"Tile", b"Range", b"RandomNormal", b"RandomUniform", b"EyeLike", b"OneHot",
    b"Resize", b"Upsample", b"Pad", b"Loop", b"Scan", b"Col2Im", b"MaxUnpool", b"Bernoulli", b"Multinomial",
)  # fmt: skip
SPARE_BYTES: Final = 2 << 30
GROWTH_MAX: Final = 16
"""What a graph may take, beyond SPARE_BYTES, in parts of its file: a copy for each stage of its optimisation."""
LIMIT_S: Final = 60.0
_TOO_MUCH: Final = 3
_DTYPES: Final = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64",
                  "tensor(int32)": "int32", "tensor(bool)": "bool", "tensor(string)": "object"}  # fmt: skip


def probe_graph(path: Path, content: bytes) -> None:
    """Raise ValueError for a graph that takes too much memory, or time, for one row. path: where its content is."""
    if not any(name in content for name in GROWING):
        return
    command = (sys.executable, "-P", "-m", "tailrace.release.probe", str(path))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {LIMIT_S:g} s for one row") from None
    if done.returncode == _TOO_MUCH or done.returncode < 0:
        limit = _limit_bytes(len(content)) >> 20
        raise ValueError(f"it takes more than {limit} MiB of memory for one row, or crashes: {done.returncode}")


def _limit_bytes(size_bytes: int) -> int:
    return SPARE_BYTES + GROWTH_MAX * size_bytes


def main(arguments: list[str]) -> int:
    """Compute the graph in a file once, within bounds; return what became of it."""
    import numpy as np
    import onnxruntime

    path = Path(arguments[1])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _limit_bytes(path.stat().st_size)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds: dict[str, Any] = {}
        for tensor in session.get_inputs():
            shape = [size if isinstance(size, int) and place else 1 for place, size in enumerate(tensor.shape)]
            feeds[tensor.name] = np.full(shape, "" if tensor.type == "tensor(string)" else 1, _DTYPES[tensor.type])
        session.run(None, feeds)
    except MemoryError:
        return _TOO_MUCH
    except Exception as error:  # what else is wrong with it is told by who asked, in full
        return _TOO_MUCH if "bad_alloc" in str(error) or "allocate" in str(error).lower() else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
