"""The fraud example from end to end: prepare it, serve it, replay yesterday's payments, and show what was decided.

Each payment is an event too, with which the next one of its customer is scored; whether it was fraud is sent when the
replay is a week further. `make demo` runs this. The server is a process of its own, and is gone when this ends, however
it ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from decisions import Decided, Replay, read_replay
from labels import LabelSender
from prepare import BUILD, HERE, TAILRACE, add_options, prepare_once, show, world_of
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from summary import WIDTH, show_answers, show_budget, show_decisions, show_fraud

from tailrace.errors import TailraceError
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import free_ports, start, wait_ready
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import LoadProgress, run_load

END_S_MAX: Final = 20.0
OUT_OF_TIME: Final = (503, 504)
"""What a machine that is too slow for the rate answers."""
DIFFERING_SHARE_MAX: Final = 0.01
"""Of the scores. In a replay of a day in seconds two payments of one card may be a millisecond apart, and the second be
scored before the first has come."""
TOUCHED_MAX: Final = 10
"""So many scores a payment may touch that was refused or lost as an event: its own, and its customer's next ones."""
KEPT_S: Final = 60.0
"""How long each round of `--keep` is."""
KEPT_RATE: Final = 20.0
"""Payments a second of `--keep`, at most: each customer pays every ten minutes then, which is often enough."""
PREDICTIONS: Final = BUILD / "predictions"
"""The prediction log of `--keep`."""
PREDICTIONS_BYTES_MAX: Final = 1 << 30
LOG: Final = BUILD / "serve.log"


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
def serve(*more: str) -> Iterator[Served]:
    """Serve the pipeline on free ports, and end the server when the block ends. more: of its options."""
    port, admin_port = free_ports(2)
    command = [TAILRACE, "serve", str(HERE / "pipeline.py"), "--port", str(port),
               "--admin-port", str(admin_port), *more]  # fmt: skip
    with ExitStack() as stack:
        server = start(stack, "the server", command, LOG, end_s_max=END_S_MAX)
        ready_s = wait_ready(server, f"http://127.0.0.1:{port}/readyz")
        yield Served(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", server.popen.pid, ready_s)


def send(served: Served, replay: Replay, rate: float, seconds: float) -> LoadReport:
    """Replay the payments open-loop: each at its own moment, whether the one before was answered or not.

    The labels go a second ahead of the payments, in the replay's time: none is late, and a window of labels ends where
    it ends however many have come.
    """
    plan = LoadPlan(
        url=f"{served.url}/v1/pipelines/fraud/predict",
        bodies=replay.bodies,
        rate=rate,
        duration_s=seconds,
        keep_bodies=True,
    )
    labels = LabelSender(served.url, BUILD / "labels" / "live.parquet")
    labels.send_until(replay.time_of(rate))
    layout = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn()
    with Progress(*layout, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"replaying at {rate:,.0f}/s", total=plan.shots, said="")

        def tell(now: LoadProgress) -> None:
            labels.send_until(replay.time_of(now.sent + rate))
            progress.update(task, completed=now.sent, said=f"{now.answered:,} answered, {labels.sent:,} labels")

        return run_load(plan, tell)


def keep_sending(served: Served, replay: Replay, rate: float, console: Console) -> None:
    """Send the payments as if they were made now, until Ctrl-C: so that there is something to see on the console."""
    console.print(f"Sending on at {rate:,.0f}/s until Ctrl-C. Watch it: {served.admin}/console", highlight=False)
    url, count = f"{served.url}/v1/pipelines/fraud/predict", max(int(rate * KEPT_S), 1)
    for sent in itertools.count(0, count):
        now, payments = datetime.now(UTC), replay.bodies
        bodies = [
            made_at(payments[(sent + each) % len(payments)], now + timedelta(seconds=each / rate), sent + each)
            for each in range(count)
        ]
        run_load(LoadPlan(url=url, bodies=bodies, rate=rate, duration_s=KEPT_S), lambda now: None)


def made_at(body: bytes, moment: datetime, number: int) -> bytes:
    """Return a payment as it would be made at another time: another one, for whoever counts it. number: of it."""
    payment = json.loads(body)
    payment["transaction_id"] = f"{payment['transaction_id']}-{number}"
    payment["time"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    return json.dumps(payment).encode()


def check_answers(report: LoadReport) -> None:
    """Raise TailraceError where something failed, or nothing was answered. To be out of time is no failure."""
    if report.ok is None or report.errors or set(report.statuses) - {200, *OUT_OF_TIME}:
        raise TailraceError(
            f"{report.errors:,} of {report.shots:,} payments got no answer, the others, by status, {report.statuses}",
            where=str(LOG),
            next="look at the server's log; where the machine is too busy for any answer, try --rate 200",
        )


def check_scores(decided: Decided, short: int) -> None:
    """Raise TailraceError where the server computed something else than the training's own code.

    short: payments that were refused, or degraded and said so: scored on defaults, or not known to be counted.
    """
    if decided.differing > DIFFERING_SHARE_MAX * len(decided.labels) + TOUCHED_MAX * short:
        raise TailraceError(
            f"{decided.differing:,} of {len(decided.labels):,} served scores differ from those computed offline",
            where="scores",
            next="prepare anew with --force",
        )


def run(options: argparse.Namespace, console: Console) -> None:
    """Prepare, serve, replay, show. Raises TailraceError when that says nothing."""
    console.rule("[bold]Tailrace: card fraud, decided within 50 ms")
    stamp, is_new = prepare_once(options.data, world_of(options), force=options.force)
    show(stamp, is_new=is_new, is_simulated=options.data is None)
    replay = read_replay(BUILD)
    kept = ("--log", str(PREDICTIONS), "--log-bytes-max", str(PREDICTIONS_BYTES_MAX)) if options.keep else ()
    with serve(*kept) as served:
        console.print(f"[bold]Served[/] at {served.url}, ready {served.ready_s:.1f} s after its start", highlight=False)
        console.print(f"[bold]Watch it[/] at {served.admin}/console", highlight=False)
        report = send(served, replay, options.rate, options.seconds)
        status = served.status()
        show_all(console, replay, report, status)
        if options.keep:
            keep_sending(served, replay, min(options.rate, KEPT_RATE), console)


def show_all(console: Console, replay: Replay, report: LoadReport, status: Any) -> None:
    """Show what was decided. Raises TailraceError when that says nothing."""
    show_answers(console, report)
    check_answers(report)
    if late := sum(report.statuses.get(status, 0) for status in OUT_OF_TIME):
        console.print(
            f"[yellow]{late:,} payments were refused: this machine was too busy to answer them in time. What follows "
            "is of the others. Try --rate 200.[/]",
            width=WIDTH,
        )
    decided = replay.decide(report.bodies)
    short = late + sum(status["pipelines"][0]["degraded"].values())
    check_scores(decided, short)
    show_decisions(console, decided)
    show_fraud(console, decided, short)
    show_budget(console, status)
    command = f"{os.path.relpath(TAILRACE)} serve {os.path.relpath(HERE / 'pipeline.py')}"
    console.print(f"Serve it yourself:  {command} --port 8080 --admin-port 8081", highlight=False, soft_wrap=True)


def main(arguments: list[str]) -> int:
    """Run the demonstration; return 0 when it went well."""
    parser = argparse.ArgumentParser(description="Prepare, serve and replay the fraud example, and show its decisions.")
    parser.add_argument("--rate", type=float, default=1_000, help="payments a second; default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="send on until Ctrl-C, to look at the console")
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
