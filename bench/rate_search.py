"""The search for the highest rate at which a server of the network of 20 MFLOP a row answers in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machine import BenchError
from part import Session
from tailrace.deadline import NS_PER_MS
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load

P99_MS: Final = 20
IN_TIME_MIN: Final = 0.99
FULL_CONNECTIONS: Final = 64
FIRST_SHARE: Final = 0.5
"""Of what a server answers that always has calls waiting: the rate at which the search begins."""
RATE_STEPS: Final = (1.2, 1.07)
"""The second from the highest rate on that the first has found to be in time."""
RATE_MIN: Final = 20.0
LOAD_S: Final = 1.2
IDLE_S: Final = 0.6


@dataclass(frozen=True, slots=True)
class Searched:
    """A server of the network whose rates are sought."""

    session: Session
    name: str
    url: str
    bodies: Path

    def rate_in_time(self) -> float:
        """Return the highest rate tried of which 99 in 100 calls are answered well within the p99 that is asked for.

        It rises by large steps, then by small ones until one is too high twice: a shared machine stands still for some
        ms now and then. Where even the first one is too high, it begins again at half of that. Raises BenchError where
        none holds.
        """
        self.session.replay.plain(self.url, self.bodies, 0.3, connections=4, judged=False)
        full = self.session.replay.plain(self.url, self.bodies, 0.5, connections=FULL_CONNECTIONS, judged=False)
        best = FIRST_SHARE * full.rps
        while not self._holds(best):
            best /= 2
            if best < RATE_MIN:
                raise BenchError(f"inference: {self.name} answers not even {RATE_MIN:.0f} calls a second in time")
        coarse, fine = RATE_STEPS
        while self._holds(best * coarse):
            best *= coarse
        while self._holds(best * fine):
            best *= fine
        return best

    def rate_alone(self) -> float:
        """Return how many calls a second are answered that come one at a time."""
        seconds = self.session.pick(IDLE_S, 0.5)
        return self.session.replay.plain(self.url, self.bodies, seconds, connections=1, judged=False).rps

    def _holds(self, rate: float) -> bool:
        """Say whether one of two loads of a rate is answered in time."""
        lines = [line for line in self.bodies.read_bytes().splitlines() if line]
        for seed in range(self.session.pick(2, 1)):
            self.session.tell(f"inference: {self.name} at {rate:,.0f}/s")
            if in_time(run_load(plan_of(self.url, lines, rate, LOAD_S, seed=int(rate) + seed))) >= IN_TIME_MIN:
                return True
        return False


def plan_of(url: str, lines: Sequence[bytes], rate: float, seconds: float, seed: int) -> LoadPlan:
    """Return calls at random, as of callers that know nothing of each other."""
    return LoadPlan(url, list(lines), rate=rate, duration_s=seconds, arrival="poisson", seed=seed,
                    budget_ns=P99_MS * NS_PER_MS)  # fmt: skip


def in_time(report: LoadReport) -> float:
    """Return the share of all calls that were answered well within the budget."""
    return report.goodput_per_s * report.plan.duration_s / max(report.shots, 1)
