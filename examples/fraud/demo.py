"""The fraud example from end to end: prepare it, serve it, replay a week's payments, and show what was decided.

`make demo` runs this. The server is a process of its own, and is gone when this ends, however it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decisions import Decided, Replay, read_replay
from prepare import BUILD, HERE, add_options, prepare_once, show, world_of
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from summary import WIDTH, show_answers, show_budget, show_decisions, show_fraud

from tailrace.errors import SetupError, TailraceError
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import LoadProgress, run_load

READY_S_MAX: Final = 60.0
END_S_MAX: Final = 20.0
OUT_OF_TIME: Final = (503, 504)
"""What a machine that is too slow for the rate answers."""
SCORE_DIFFERENCE_MAX: Final = 1e-5
LOG: Final = BUILD / "serve.log"
TAILRACE: Final = str(Path(sys.executable).with_name("tailrace"))


@dataclass(frozen=True, slots=True)
class Served:
    """A running server. url, admin: of its two ports. ready_s: from its start to ready."""

    url: str
    admin: str
    pid: int
    ready_s: float

    def status(self) -> Any:
        """Return what the admin port says."""
        with urllib.request.urlopen(f"{self.admin}/status", timeout=5) as answer:
            return json.loads(answer.read())


@contextmanager
def serve() -> Iterator[Served]:
    """Serve the pipeline on free ports, and end the server when the block ends."""
    port, admin_port = free_ports(2)
    command = [TAILRACE, "serve", str(HERE / "pipeline.py"), "--port", str(port),
               "--admin-port", str(admin_port)]  # fmt: skip
    began_s = time.perf_counter()
    with LOG.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_ready(process, f"http://127.0.0.1:{port}/readyz", began_s)
        ready_s = time.perf_counter() - began_s
        yield Served(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", process.pid, ready_s)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience_s: float = END_S_MAX) -> None:
    """Ask the server to end, wait, and kill what is left of it and of its workers, each by its own pid."""
    workers = {pid: start_of(pid) for pid in children_of(process.pid)}
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, started in workers.items():
        if started and start_of(pid) == started:  # the same process still, and no other of its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children, none if it is gone."""
    with suppress(OSError):
        return [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    return []


def start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def wait_ready(process: subprocess.Popen[bytes], url: str, began_s: float) -> None:
    """Wait until the URL answers 200. Raises SetupError, with the end of the log, when the server ends instead."""
    while process.poll() is None and time.perf_counter() - began_s < READY_S_MAX:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.01)
    said = "\n".join(LOG.read_text(errors="replace").splitlines()[-10:])
    how = "was not ready in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise SetupError(f"the server {how}:\n{said}", where=str(LOG), next="mend what it says, and run again")


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def send(served: Served, replay: Replay, rate: float, seconds: float) -> LoadReport:
    """Replay the payments open-loop: each at its own moment, whether the one before was answered or not."""
    plan = LoadPlan(
        url=f"{served.url}/v1/pipelines/fraud/predict",
        bodies=replay.bodies,
        rate=rate,
        duration_s=seconds,
        keep_bodies=True,
    )
    layout = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn()
    with Progress(*layout, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"replaying at {rate:,.0f}/s", total=plan.slots, said="")

        def tell(now: LoadProgress) -> None:
            progress.update(task, completed=now.sent, said=f"{now.answered:,} answered")

        return run_load(plan, tell)


def check_answers(report: LoadReport) -> None:
    """Raise TailraceError where something failed, or nothing was answered. To be out of time is no failure."""
    if report.ok is None or report.errors or set(report.statuses) - {200, *OUT_OF_TIME}:
        raise TailraceError(
            f"{report.errors:,} of {report.slots:,} payments got no answer, the others, by status, {report.statuses}",
            where=str(LOG),
            next="look at the server's log; where the machine is too busy for any answer, try --rate 200",
        )


def check_scores(decided: Decided, degraded: dict[str, int]) -> None:
    """Raise TailraceError where the server computed something else than the training's own code.

    degraded: rows by reason; with any, some were scored on defaults, and say so.
    """
    if not degraded and not decided.score_difference_max <= SCORE_DIFFERENCE_MAX:
        raise TailraceError(
            f"served and offline scores differ by {decided.score_difference_max:.0e}",
            where="scores",
            next="prepare anew with --force",
        )


def run(options: argparse.Namespace, console: Console) -> None:
    """Prepare, serve, replay, show. Raises TailraceError when that says nothing."""
    console.rule("[bold]Tailrace: card fraud, decided within 50 ms")
    stamp, is_new = prepare_once(options.data, world_of(options), force=options.force)
    show(stamp, is_new=is_new, is_simulated=options.data is None)
    replay = read_replay(BUILD)
    with serve() as served:
        console.print(f"[bold]Served[/] at {served.url}, ready {served.ready_s:.1f} s after its start", highlight=False)
        report = send(served, replay, options.rate, options.seconds)
        status = served.status()
    show_answers(console, report)
    check_answers(report)
    if late := sum(report.statuses.get(status, 0) for status in OUT_OF_TIME):
        console.print(
            f"[yellow]{late:,} payments were refused: this machine was too busy to answer them in time. What follows "
            "is of the others. Try --rate 200.[/]",
            width=WIDTH,
        )
    decided = replay.decide(report.bodies)
    check_scores(decided, status["pipelines"][0]["degraded"])
    show_decisions(console, decided)
    show_fraud(console, decided)
    show_budget(console, status)
    pipeline = Path(os.path.relpath(HERE / "pipeline.py"))
    console.print(f"Serve it yourself:  tailrace serve {pipeline} --port 8080 --admin-port 8081", highlight=False)


def main(arguments: list[str]) -> int:
    """Run the demonstration; return 0 when it went well."""
    parser = argparse.ArgumentParser(description="Prepare, serve and replay the fraud example, and show its decisions.")
    parser.add_argument("--rate", type=float, default=1_000, help="payments a second; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=20, help="how long to replay; default: %(default)s")
    add_options(parser)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options, Console())
    except TailraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
