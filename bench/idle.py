"""One request at a time: its p50, and nginx's by the same client."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Final

from answers import fetch_answer
from figures import Figures
from machine import SERVER_CORE
from part import Line, Part, Session
from peers import start_nginx, start_tailrace

ROUNDS: Final = 7
SECONDS: Final = 1.0


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the two take turns."""
    with ExitStack() as stack:
        session.tell("idle: starting the servers")
        tailrace = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-idle")
        with session.bodies.open("rb") as bodies:
            nginx = start_nginx(stack, fetch_answer(tailrace.url, bodies.readline()))
        urls = {"tailrace": tailrace.url, "nginx": nginx.url}
        p50s_us: dict[str, list[float]] = {name: [] for name in urls}
        rounds = session.pick(ROUNDS, 1)
        for number in range(rounds):
            session.tell(f"one request at a time, {number + 1} of {rounds}")
            for name, url in urls.items():
                run = session.replay.plain(url, session.bodies, session.pick(SECONDS, 0.5), connections=1)
                p50s_us[name].append(run.p50_us)
    ratios = [ours / theirs for ours, theirs in zip(p50s_us["tailrace"], p50s_us["nginx"], strict=True)]
    return {
        "idle_p50_us": round(median(p50s_us["tailrace"]), 1),
        "idle_nginx_p50_us": round(median(p50s_us["nginx"]), 1),
        "idle_ratio_nginx": round(median(ratios), 2),
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    return [
        Line("Tailrace, p50", figures["idle_p50_us"], 400, 200, " µs"),
        Line("nginx `return 200`, p50", figures["idle_nginx_p50_us"], unit=" µs"),
        Line("  Tailrace to nginx", figures["idle_ratio_nginx"], unit="×"),
    ]


PART: Final = Part(
    name="idle",
    about="one request at a time on one connection",
    caveats=("idle: the client is in C and sleeps while it waits; to wake it, and the server, is part of both times.",),
    steps=lambda session: 1 + session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
