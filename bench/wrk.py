"""wrk, which bench/overload.py and bench/hotspots.py drive a server with: closed loop, its bodies in turns from Lua."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machine import LOAD_CORE, BenchError

HERE: Final = Path(__file__).parent
CONNECTIONS: Final = 64
REFUSED_SHARE_MAX: Final = 0.002


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """One run of wrk: requests a second, and the latency it saw, counted from the actual sending.

    refused: answers that were not 2xx, which `rps` leaves out.
    """

    rps: float
    p50_ms: float
    p99_ms: float
    requests: int
    refused: int


def run_wrk(url: str, bodies: Path, seconds: int, *, budget_ms: str = "", judged: bool = True) -> ClosedLoop:
    """Drive a server with wrk from the load's core. Refusals are not counted in `rps`.

    bodies: a file of them; all are sent in turns. budget_ms: the X-Budget-Ms of every request, if any. judged: False
    where refusals are let pass, as for warming up. Raises BenchError for more than `REFUSED_SHARE_MAX` of them: on a
    shared machine a stall longer than the budget makes a server that keeps it refuse what has waited.
    """
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s",
               "-s", str(HERE / "post.lua"), url]  # fmt: skip
    told = {"BODIES": str(bodies)} | ({"BUDGET_MS": budget_ms} if budget_ms else {})
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False, env=os.environ | told
    )
    line = re.search(r"^RESULT (.*)$", run.stdout, re.MULTILINE)
    if run.returncode or line is None:
        raise BenchError(f"wrk failed on {url}: {run.stdout}{run.stderr}")
    result = json.loads(line[1])
    refused = result["not_2xx"] > REFUSED_SHARE_MAX * result["requests"]
    if judged and (refused or result["socket_errors"] or not result["requests"]):
        raise BenchError(
            f"{url}: {result['not_2xx']} answers were not 2xx, {result['socket_errors']} sockets failed, of "
            f"{result['requests']} requests: a rate of refusals is no figure"
        )
    rps = (result["requests"] - result["not_2xx"]) / (result["duration_us"] / 1e6)
    return ClosedLoop(rps, result["p50_us"] / 1e3, result["p99_us"] / 1e3, result["requests"], result["not_2xx"])
