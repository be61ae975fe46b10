"""Requests a second with what real clients send: their heads and their writes, replayed from bench/clients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Final

from figures import Figures
from machine import SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import Server, start_tailrace
from recording import Recording, read_recordings

ROUNDS: Final = 5
SECONDS: Final = 1.0
PLAIN: Final = {"one_write": 1, "two_writes": 2}
"""The clients that send no more than they must, by the writes in which they do."""


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within each of which the clients and the plain ones take turns."""
    recordings = read_recordings()
    if not recordings:
        raise BenchError("no client is recorded: python bench/record_clients.py")
    rates: dict[str, list[float]] = {name: [] for name in (*PLAIN, *recordings)}
    with ExitStack() as stack:
        session.tell("real clients: starting the server")
        server = start_tailrace(stack, cores={SERVER_CORE}, name="tailrace-clients")
        session.replay.plain(server.url, session.bodies, 1.0, judged=False)
        rounds = session.pick(ROUNDS, 1)
        for number in range(rounds):
            for name, found in rates.items():
                session.tell(f"real clients, {number + 1} of {rounds}: {name}")
                found.append(replay_once(session, server, name, recordings))
    return {"hot_path": summarize(rates, recordings)}


def replay_once(session: Session, server: Server, name: str, recordings: dict[str, Recording]) -> float:
    """Return the requests a second of one client, or of a plain one."""
    seconds = session.pick(SECONDS, 1.0)
    if name in PLAIN:
        return session.replay.plain(server.url, session.bodies, seconds, writes=PLAIN[name]).rps
    return session.replay.client(server.url, recordings[name], session.bodies, seconds).rps


def summarize(rates: dict[str, list[float]], recordings: dict[str, Recording]) -> Figures:
    """Return the rates, and each client's to those of the plain client that writes as often, round by round."""
    ratios = {
        name: median(share(rates[name], rates["two_writes" if recording.writes > 1 else "one_write"]))
        for name, recording in recordings.items()
    }
    slowest = min(ratios, key=lambda name: ratios[name])
    return {
        "real_clients": {name: round(median(rates[name])) for name in recordings},
        "real_clients_plain": {name: round(median(rates[name])) for name in PLAIN},
        "real_clients_ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "real_clients_slowest": slowest,
        "real_clients_ratio": round(ratios[slowest], 3),
    }


def share(rates: Sequence[float], plain: Sequence[float]) -> list[float]:
    """Return the rates of each round to the plain ones of the same round."""
    return [rate / other for rate, other in zip(rates, plain, strict=True)]


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table, the fastest client first."""
    hot = figures["hot_path"]
    plain, ratios = hot["real_clients_plain"], hot["real_clients_ratios"]
    told = [
        Line("plain, head and body in one write, requests/s", plain["one_write"]),
        Line("plain, in two writes, requests/s", plain["two_writes"]),
    ]
    for name in sorted(ratios, key=lambda name: -ratios[name]):
        told.append(Line(f"{name}, requests/s", hot["real_clients"][name]))
        told.append(Line("  against plain", ratios[name], more_is_better=True))
    told.append(Line(f"the slowest against plain ({hot['real_clients_slowest']})", hot["real_clients_ratio"]))
    return told


PART: Final = Part(
    name="real_clients",
    about="the hot path with the heads and writes of real clients",
    caveats=(
        "real clients: recorded (bench/record_clients.py) and replayed from C at 64 connections, each request in a "
        "trace of its own. A client that writes head and body apart is compared with a plain one that does.",
    ),
    steps=lambda session: 1 + session.pick(ROUNDS, 1) * (len(PLAIN) + len(read_recordings())),
    measure=measure,
    lines=lines,
)
