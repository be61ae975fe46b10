"""A program that opens model files which may lead their library anywhere, each in a process of its own.

Before each file on stdin stands a line: its kind ("lightgbm", "xgboost"), how many columns its scores have, and its
length. For each it writes a line: "scored", "refused", or the number of the signal that ended the process.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

import numpy as np

from tailrace.inference.backends import lightgbm, xgboost
from tailrace.inference.backends.native import NativeModel
from tailrace.inference.signature import Signature, TensorSpec

SECONDS_MAX = 20
BYTES_MAX = 8 << 30
OPENS: dict[str, tuple[type[NativeModel], str]] = {
    "lightgbm": (lightgbm.LightgbmModel, "float64"),
    "xgboost": (xgboost.XgboostModel, "float32"),
}


def score(kind: str, columns: int, content: bytes) -> None:
    """Open a file and score rows of all sorts with it. Raises what a refusal is."""
    model, dtype = OPENS[kind]
    spec = TensorSpec("x", dtype, ("a", "b"))
    signature = Signature((spec,), "scores", 0 if columns == 1 else None, () if columns == 1 else tuple(range(columns)))
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=64), rng.integers(-1, 40, 64)]).astype(dtype)
    rows[:4] = np.nan, np.inf
    predict = model.open(content, signature)
    for part in (rows, rows[:1]):
        predict({"x": part})


def outcome(kind: str, columns: int, content: bytes) -> str:
    """Return what became of a process that opened a file."""
    if not (pid := os.fork()):
        code = 70
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)  # libraries speak on either
            os.dup2(quiet, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (BYTES_MAX, BYTES_MAX))
            signal.alarm(SECONDS_MAX)
            score(kind, columns, content)
            code = 0
        except (ValueError, OSError):
            code = 1
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: "scored", 1: "refused"}.get(status, f"ended by {status}")


def main() -> None:
    """Answer one file after the other."""
    lightgbm.open_library(), xgboost.open_library()  # once: each process has them from here
    while line := sys.stdin.buffer.readline():
        kind, columns, size = line.decode().split()
        content = sys.stdin.buffer.read(int(size))
        sys.stdout.write(f"{outcome(kind, int(columns), content)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
