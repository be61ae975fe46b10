"""`make bench`: Tailrace under measurement, part by part, on one machine. Writes build/bench.json.

    python bench/run.py                          all parts, in half an hour
    python bench/run.py --only hot_path,idle     some of them; the figures of all others stay as they are
    python bench/run.py --quick                  one short round of each: to see that it runs, not to quote

The server has one core; the load and Redis have the other. What is compared takes turns, and figures are medians. Needs
gcc, nginx, haproxy and redis-server (apt-get install gcc libc6-dev nginx haproxy redis-server).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import before
import counts
import event_features
import front_door
import front_door_accepted
import front_door_auth
import front_door_client
import front_door_coalescing
import front_door_codecs
import front_door_grpc
import front_door_hostile
import front_door_oip
import front_door_tls
import handbook
import hot_path
import idle
import load_curve
import models
import monitoring_console
import monitoring_disk
import monitoring_drift
import monitoring_explain
import monitoring_log
import monitoring_metrics
import monitoring_tracing
import open_loop
import real_clients
import start
import trust
import trust_balancers
from figures import Figures, merge_figures, read_figures, write_figures
from machine import BenchError, busy_share
from part import BASE, Part, Session
from peers import PIPELINE, ROOT, WORKPLACE, check_programs
from report import print_caveats, print_table

BUSY_SHARE_MAX: Final = 0.05
"""Of both cores, at work before anything is started; above it the table says that the machine was not quiet."""
PARTS: Final = {
    module.PART.name: module.PART
    for module in (
        hot_path,
        real_clients,
        idle,
        front_door,
        front_door_accepted,
        front_door_auth,
        front_door_client,
        front_door_coalescing,
        front_door_codecs,
        front_door_grpc,
        front_door_hostile,
        front_door_oip,
        front_door_tls,
        open_loop,
        load_curve,
        start,
        counts,
        before,
        trust,
        trust_balancers,
        event_features,
        handbook,
        models,
        monitoring_console,
        monitoring_disk,
        monitoring_drift,
        monitoring_explain,
        monitoring_log,
        monitoring_metrics,
        monitoring_tracing,
    )
}
FIGURES: Final = ROOT / "build" / "bench.json"


def choose_parts(only: str) -> list[Part]:
    """Return the parts of a comma-separated list, in the order of a whole run; all where it is empty.

    A name stands for the parts that begin with it, too: `front_door` for `front_door_coalescing`.
    Raises BenchError for one that does not exist.
    """
    names = {name.strip() for name in only.split(",")} - {""}
    if unknown := names - set(PARTS):
        raise BenchError(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    begun = tuple(f"{name}_" for name in names)
    return [part for name, part in PARTS.items() if not names or name in names or name.startswith(begun)]


def prepare() -> None:
    """See that all is there that is needed, and prepare the fraud example. Raises BenchError where it is not."""
    check_programs()
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchError("two cores are needed: one for the server, one for the load")
    WORKPLACE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(PIPELINE.with_name("prepare.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def measure_parts(parts: Sequence[Part], session: Session, out: Path) -> tuple[dict[str, Figures], list[str]]:
    """Measure one part after the other, and write each as it is done; return their figures, and what failed."""
    measured: dict[str, Figures] = {}
    failures: list[str] = []
    layout = TextColumn("{task.description:44}"), BarColumn(), TimeElapsedColumn()
    with Progress(*layout, console=Console(stderr=True), transient=True, refresh_per_second=2) as progress:
        total = 1 + sum(part.steps(session) for part in parts)
        task = progress.add_task("preparing the fraud example", total=total)
        prepare()
        session.tell = lambda step: progress.update(task, description=step, advance=1)
        done = 1
        for part in parts:
            progress.update(task, completed=done)
            done += part.steps(session)
            session.known = read_figures(out)
            began_s = time.monotonic()
            try:
                measured[part.name] = part.measure(session)
            except BenchError as error:
                failures.append(f"{part.name}: {error}")
                continue
            session.took_s[part.name] = time.monotonic() - began_s
            write_figures(merge_figures(read_figures(out), measured[part.name]), out)
    return measured, failures


def times_of(took_s: dict[str, float]) -> str:
    """Return how long the parts took, the longest first, and all together."""
    longest = sorted(took_s, key=lambda name: -took_s[name])
    minutes, seconds = divmod(round(sum(took_s.values())), 60)
    return f"It took {minutes} min {seconds} s: {', '.join(f'{name} {took_s[name]:.0f} s' for name in longest)}."


def main(arguments: list[str]) -> int:
    """Measure, write, print; return 1 where a part could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PARTS", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--base", default=BASE, metavar="REV", help=f"what `before` compares with; default: {BASE}")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out", type=Path, default=FIGURES, help="default: build/bench.json")
    options = parser.parse_args(arguments)
    session = Session(quick=options.quick, base=options.base)
    if options.quick:
        session.notes.append("--quick: one short round, not to be quoted.")
    busy = busy_share()
    if busy > BUSY_SHARE_MAX:
        told = f"other programs took {busy:.0%} of the machine at the start: do not quote these figures."
        session.notes.append(f"[red]{told}[/]")
    try:
        parts = choose_parts(options.only)
        measured, failures = measure_parts(parts, session, options.out)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 120)
    shown = [part for part in parts if part.name in measured]
    if shown:
        print_caveats(shown, session.notes, console)
    for part in shown:
        print_table(part, part.lines(measured[part.name]), console)
    console.print(times_of(session.took_s), highlight=False)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
