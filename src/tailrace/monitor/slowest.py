"""The slowest requests of the last minute and of the last ten, of each pipeline, in constant memory.

Of every ten seconds the slowest are kept, so that both spans are exact to ten seconds, and what was slow an hour ago
hides nothing that is slow now. Most requests cost one comparison, of arrays.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import chain
from typing import Final

import msgspec
import numpy as np

from tailrace.batch import Degraded
from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.monitor.predictions import Predictions

SLOW_MAX: Final = 20
"""So many requests of each span are told."""
PIPELINES_MAX: Final = 16
"""Of more pipelines the first are watched."""
STEP_S: Final = 10
MINUTE_STEPS: Final = 6
STEPS_MAX: Final = 60
TEXT_MAX: Final = 128
"""Characters of an id that a caller has made up."""
_DEGRADED: Final = tuple((int(flag), (flag.name or "").lower()) for flag in Degraded)


class SlowRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answered request, without what was sent. at_s: of its answer, since the epoch. Times in ms.

    wait: until its batch began; layers: of its batch in each of the five. decision, score: of its only row; "" and None
    where it has several, or none. error: the kind of error that it was answered with.
    """

    id: str
    at_s: float
    whole: float
    wait: float
    layers: tuple[float, ...]
    release: str
    rows: int = 1
    decision: str = ""
    score: float | None = None
    degraded: tuple[str, ...] = ()
    error: str = ""


Ranked = tuple[int, int, SlowRequest]
"""A request behind the time it took, ns, and a number that no other has."""


class Slowest:
    """Keeps the slowest requests. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._pipelines: dict[str, deque[tuple[int, list[Ranked]]]] = {}
        self._number = 0

    def take(self, predictions: Predictions, now_s: float) -> None:
        """Hear of requests that were answered just now."""
        steps = self._pipelines.get(predictions.pipeline)
        if steps is None:
            if len(self._pipelines) >= PIPELINES_MAX:
                return
            steps = self._pipelines[predictions.pipeline] = deque(maxlen=STEPS_MAX + 1)
        step = int(now_s // STEP_S)
        if not steps or steps[-1][0] != step:
            steps.append((step, []))
        self._rank(steps[-1][1], predictions)

    def find(self, now_s: float) -> dict[str, tuple[SlowRequest, ...]]:
        """Return by pipeline the slowest of ten minutes and those of the last one, the slowest first."""
        now = int(now_s // STEP_S)
        return {
            name: tuple(each for _, _, each in sorted(_of(steps, now, STEPS_MAX) | _of(steps, now, MINUTE_STEPS))[::-1])
            for name, steps in self._pipelines.items()
        }

    def _rank(self, kept: list[Ranked], predictions: Predictions) -> None:
        """Keep those that are slower than what is kept of the step, which is a heap."""
        whole_ns = predictions.whole_ns
        places = np.argsort(whole_ns)[-SLOW_MAX:] if len(whole_ns) > SLOW_MAX else np.arange(len(whole_ns))
        for place in places.tolist():
            took_ns = int(whole_ns[place])
            if len(kept) == SLOW_MAX and took_ns <= kept[0][0]:
                continue
            self._number += 1
            ranked = (took_ns, self._number, slow_request(predictions, place))
            (heapq.heappush if len(kept) < SLOW_MAX else heapq.heappushpop)(kept, ranked)


def slow_request(predictions: Predictions, place: int) -> SlowRequest:
    """Return what is told of one request of some. place: among them."""
    rows = np.flatnonzero(predictions.places == place)
    bits = int(np.bitwise_or.reduce(predictions.degraded[rows])) if len(rows) else 0
    decision, score = "", None
    if len(rows) == 1 and not predictions.failed[rows[0]]:
        row = int(rows[0])
        if predictions.decisions is not None:
            decision = predictions.labels[int(predictions.decisions[row])]
        if predictions.scores.ndim == 1 and np.isfinite(predictions.scores[row]):
            score = float(f"{float(predictions.scores[row]):.4g}")
    return SlowRequest(
        id=predictions.request_ids[place][:TEXT_MAX],
        at_s=round(int(predictions.answered_ns[place]) / NS_PER_S, 3),
        whole=_ms(int(predictions.whole_ns[place])),
        wait=_ms(int(predictions.waits_ns[place])),
        layers=tuple(_ms(time_ns) for time_ns in predictions.layers_ns[place].tolist()),
        release=predictions.release,
        rows=len(rows),
        decision=decision,
        score=score,
        degraded=tuple(name for flag, name in _DEGRADED if bits & flag),
        error=predictions.errors[place],
    )


def _of(steps: deque[tuple[int, list[Ranked]]], now: int, within: int) -> set[Ranked]:
    """Return the slowest of the last steps; the oldest of these is kept until all of it is too old."""
    return set(heapq.nlargest(SLOW_MAX, chain.from_iterable(kept for step, kept in steps if now - step <= within)))


def _ms(time_ns: int) -> float:
    return round(time_ns / NS_PER_MS, 3)
