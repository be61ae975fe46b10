"""Requests replayed from C: compiles bench/replay.c, runs it on the load's core, and reads what it tells."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from machine import LOAD_CORE, BenchError
from recording import Recording, plain_template, template_of

HERE: Final = Path(__file__).resolve().parent
SOURCES: Final = (HERE / "replay.c", HERE / "latencies.h")
FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra")
CONNECTIONS: Final = 64
WARM_S: Final = 0.2
"""Of each run, which count for nothing: connections are opened, and heads learnt."""
REFUSED_SHARE_MAX: Final = 0.002
"""Of all answers; a rate of refusals is no figure."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One run: answers of status 200 a second, the others, the latency of all, and the share of its core it took."""

    rps: float
    p50_us: float
    p99_us: float
    refused: int
    cpu_share: float


class Replay:
    """The compiled program. folder: where it and its templates lie; what is older than its source is made anew."""

    def __init__(self, folder: Path, core: int = LOAD_CORE) -> None:
        self._folder = folder
        self._core = core
        self._program = folder / "replay"
        folder.mkdir(parents=True, exist_ok=True)
        edited_s = max(source.stat().st_mtime for source in SOURCES)
        if not self._program.exists() or self._program.stat().st_mtime < edited_s:
            compile_program(self._program)

    def plain(
        self,
        url: str,
        bodies: Path,
        seconds: float,
        *,
        writes: int = 1,
        connections: int = CONNECTIONS,
        judged: bool = True,
    ) -> Replayed:
        """Send what a client must, and no more, in one write or two. judged: False to let refusals pass."""
        target = urlsplit(url)
        template = plain_template(target.netloc, target.path, writes)
        return self.run(target.port or 80, template, bodies, seconds, connections=connections, judged=judged)

    def client(self, url: str, recording: Recording, bodies: Path, seconds: float, *, judged: bool = True) -> Replayed:
        """Send what a client was recorded to send."""
        target = urlsplit(url)
        template = template_of(recording, target.netloc, target.path)
        return self.run(target.port or 80, template, bodies, seconds, judged=judged)

    def run(
        self,
        port: int,
        template: str,
        bodies: Path,
        seconds: float,
        *,
        connections: int = CONNECTIONS,
        judged: bool = True,
    ) -> Replayed:
        """Send requests of a template to a server on 127.0.0.1, the lines of a file in turns as bodies.

        Raises BenchError when the server closes a connection or is silent; where it is judged, also when more than
        `REFUSED_SHARE_MAX` of its answers are not 200: on a shared machine a stall longer than the budget makes a
        server that keeps it refuse what has waited.
        """
        path = self._folder / "template"
        path.write_bytes(template.encode("latin-1"))
        command = ["taskset", "-c", str(self._core), str(self._program), str(port), str(path), str(bodies),
                   str(connections), str(WARM_S), str(seconds)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
        if done.returncode:
            raise BenchError(f"port {port}: {done.stderr.strip()}")
        told = json.loads(done.stdout)
        ok, refused = told["ok"], told["not_200"]
        if judged and (not ok or refused > REFUSED_SHARE_MAX * (ok + refused)):
            status = told["other_status"]
            raise BenchError(f"port {port}: {refused:,} of {ok + refused:,} answers were not 200, such as {status}")
        return Replayed(ok / told["seconds"], told["p50_us"], told["p99_us"], refused, told["cpu_share"])


def compile_program(program: Path) -> None:
    """Compile the generator. Raises BenchError with what the compiler says, of a warning too."""
    command = ["gcc", *FLAGS, "-o", str(program), str(HERE / "replay.c")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise BenchError("not installed: gcc; apt-get install gcc libc6-dev") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command)}:\n{done.stderr}")
