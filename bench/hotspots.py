"""Where each microsecond of a request goes: samples of a worker under load, by the library it was in.

    make hotspots    or        .venv/bin/python bench/hotspots.py --seconds 10

The fraud example on LMDB with everything on, on core 0; wrk with 64 connections on core 1. Needs wrk and perf
(apt-get install wrk linux-perf).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from machine import LOAD_CORE, SERVER_CORE, BenchError
from peers import PIPELINE, PREPARED, find_program, start_tailrace
from wrk import run_wrk

SAMPLES_PER_S: Final = 997
"""A prime, so that no loop keeps step with it."""
PARTS: Final = (
    ("the kernel: read, write, epoll", r"\[kernel|\[guest"),
    ("the model", r"libbitvector|/onnxruntime/|/libm[.-]"),
    ("windows of stream views", r"libwindows"),
    ("NumPy", r"/numpy"),
    ("LMDB", r"/lmdb/"),
    ("msgspec", r"/msgspec/"),
    ("uvloop", r"/uvloop/"),
    ("httptools", r"/httptools/"),
    ("hiredis", r"/hiredis/"),
    ("Python's interpreter", r"/(lib)?python3[^/]*$|/lib-dynload/"),
    ("libc: copies, allocation", r"/libc[.-]|/ld-linux|vdso|libffi"),
)


def sample(pid: int, seconds: int, folder: Path) -> Counter[str]:
    """Return the samples of a process by the file that was running. Raises BenchError where perf cannot."""
    data = folder / "perf.data"
    record = ["taskset", "-c", str(LOAD_CORE), "perf", "record", "-q", "-F", str(SAMPLES_PER_S), "-o", str(data),
              "-p", str(pid), "--", "sleep", str(seconds)]  # fmt: skip
    done = subprocess.run(record, capture_output=True, text=True, check=False)
    if done.returncode or not data.is_file():
        raise BenchError(f"perf cannot sample: {done.stderr.strip()}")
    script = ["perf", "script", "-i", str(data), "-F", "ip,dso"]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"\(([^()]+)\)\s*$", told, re.MULTILINE))


def by_part(files: Counter[str]) -> Counter[str]:
    """Return the samples by part; what belongs to none stands under "other"."""
    parts: Counter[str] = Counter()
    for file, count in files.items():
        parts[next((name for name, pattern in PARTS if re.search(pattern, file)), "other")] += count
    return parts


def main() -> int:
    """Sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of sampling")
    parser.add_argument("--store", help="in place of LMDB, such as redis://127.0.0.1:6379")
    options = parser.parse_args()
    bodies = PREPARED / "replay.jsonl"
    try:
        if find_program("perf") is None or find_program("wrk") is None:
            raise BenchError("perf and wrk are needed: apt-get install linux-perf wrk")
        if not bodies.is_file():
            subprocess.run([sys.executable, str(PIPELINE.with_name("prepare.py"))], check=True, capture_output=True)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = start_tailrace(stack, cores={SERVER_CORE}, store=options.store)
            (worker,) = server.worker_pids()
            run_wrk(server.url, bodies, 1, judged=False)
            before_s = server.process.cpu_s()
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(run_wrk, server.url, bodies, options.seconds + 2)
                parts = by_part(sample(worker, options.seconds, folder))
                run = load.result()
            cost_us = (server.process.cpu_s() - before_s) * 1e6 / run.requests
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table("", title=f"{cost_us:.1f} µs of a core a request", title_justify="left")
    for heading in ("share", "µs"):
        table.add_column(heading, justify="right")
    whole = sum(parts.values())
    for name, count in parts.most_common():
        table.add_row(name, f"{count / whole:.1%}", f"{cost_us * count / whole:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
