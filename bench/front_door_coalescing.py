"""How many of the requests that are asked again are answered by what was computed already, beside what is to be had.

The load is fixed beforehand: who asks (Zipf) and when (Poisson). So what repeats within the ttl is counted from it, to
the request, and nothing of the server's is in that number.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import start_tailrace
from tailrace.deadline import NS_PER_S
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.runner import run_load
from tailrace.loadtest.schedule import build_schedule

PIPELINE: Final = Path(__file__).parent / "coalesced" / "pipeline.py"
ROUNDS: Final = 3
SECONDS: Final = 5.0
RATE: Final = 400
USERS: Final = 20_000
EXPONENT: Final = 1.0
"""Of Zipf's law: the user of rank k asks k times as seldom as the first."""
TTL_NS: Final = 1 * NS_PER_S
ITEMS: Final = 50
PAUSE_S: Final = 1.1
"""Between two rounds: what one has kept is too old for the next."""


def draw_users(shots: int, seed: int) -> list[int]:
    """Return who asks, shot by shot."""
    weights = 1.0 / np.arange(1, USERS + 1) ** EXPONENT
    drawn: list[int] = np.random.default_rng(seed).choice(USERS, shots, p=weights / weights.sum()).tolist()
    return drawn


def predict_shared(users: list[int], due_ns: NDArray[np.int64]) -> int:
    """Return how many shots come within the ttl of the one that was computed last for their user."""
    computed_ns: dict[int, int] = {}
    shared = 0
    for user, now_ns in zip(users, due_ns.tolist(), strict=True):
        if now_ns - computed_ns.get(user, -TTL_NS) < TTL_NS:
            shared += 1
        else:
            computed_ns[user] = now_ns
    return shared


def body_of(user: int, number: int) -> bytes:
    """Return the request of a user: the same each time, but for the page that it is for."""
    random = np.random.default_rng(user)
    items = random.integers(0, 100_000, ITEMS).tolist()
    fields = {"user_id": user, "item_ids": items, "affinity": random.random(), "page_id": f"p{number}"}
    return json.dumps(fields).encode()


def measure(session: Session) -> Figures:
    """Return the share of the requests that no model was asked for, and what the load's repetition gives."""
    measured, predicted, scored = [], [], []
    with ExitStack() as stack:
        cores = {SERVER_CORE, LOAD_CORE}
        server = start_tailrace(stack, cores=cores, name="tailrace-coalesced", file=PIPELINE, pipeline="recommend")
        for seed in range(session.pick(ROUNDS, 1)):
            session.tell(f"front door: shared answers, {seed + 1} of {session.pick(ROUNDS, 1)}")
            shots = round(RATE * SECONDS)
            users = draw_users(shots, seed)
            bodies = [body_of(user, number) for number, user in enumerate(users)]
            plan = LoadPlan(url=server.url, bodies=bodies, rate=RATE, duration_s=SECONDS, arrival="poisson", seed=seed)
            time.sleep(PAUSE_S)
            before = _pipeline(server.status())
            report = run_load(plan)
            after = _pipeline(server.status())
            if report.ok is None or report.ok.count < shots:
                raise BenchError(f"front_door: of {shots} recommendations not all were answered: {report.statuses}")
            measured.append((sum(after["coalesced"].values()) - sum(before["coalesced"].values())) / shots)
            predicted.append(predict_shared(users, build_schedule(plan)) / shots)
            scored.append((after["rows"] - before["rows"]) / (ITEMS * shots))
    pairs = list(zip(measured, predicted, strict=True))
    return {
        "front_door": {
            "coalesced_share": round(median(measured), 4),
            "coalesced_predicted": round(median(predicted), 4),
            "coalesced_off": round(max(abs(one / other - 1) for one, other in pairs), 4),
            "coalesced_scored": round(median(scored), 4),
        }
    }


def _pipeline(status: Any) -> Any:
    """Return what /status says of the only pipeline."""
    return status["pipelines"][0]


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("requests that share an answer", door["coalesced_share"], 0.2, more_is_better=True),
        Line("  by the load's repetition", door["coalesced_predicted"]),
        Line("  off by, at most", 100 * door["coalesced_off"], aim=2, unit=" %"),
        Line("rows scored, of those asked for", door["coalesced_scored"]),
    ]


PART: Final = Part(
    name="front_door_coalescing",
    about="recommendations asked for again, by Zipf's law, with a ttl of a second: how many share an answer",
    caveats=("front_door: what can be shared follows from the load: 20,000 users at 400/s, on one worker.",),
    steps=lambda session: session.pick(ROUNDS, 1),
    measure=measure,
    lines=lines,
)
