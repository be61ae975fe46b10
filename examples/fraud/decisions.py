"""What the served decisions were worth: fraud caught and missed, beside what would have caught less.

Last night's profiles alone are what was served before there were windows over events: a model of its own, whose scores
are computed offline, with the same bands and rule.

The hourly batch job is given the better of it: it costs no time, it has the scores that were served, and from the full
hour at which it finds a payment that would have been blocked or reviewed, it stops that customer's card until midnight.
What it cannot do is to stop a payment that was made before it ran.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCORE_DIFFERENCE_MAX: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Decided:
    """Payments with their decisions, in the order of time; every array has shape (payments,).

    nightly_stopped: those that would have been stopped on last night's profiles alone. batch_stopped: those that the
    hourly job would have stopped. differing: how many scores are not those computed offline, by the training set's own
    code. score_difference_max: between all others.
    """

    labels: NDArray[np.str_]
    is_fraud: NDArray[np.bool_]
    amounts: NDArray[np.float64]
    nightly_stopped: NDArray[np.bool_]
    batch_stopped: NDArray[np.bool_]
    differing: int
    score_difference_max: float

    @property
    def caught(self) -> NDArray[np.bool_]:
        """Which payments were blocked, or held for a person to look at."""
        return np.not_equal(self.labels, "allow")


@dataclass(frozen=True, slots=True)
class Replay:
    """The held-back payments: what is sent, and what is known of each."""

    bodies: list[bytes]
    customers: NDArray[np.int64]
    times: NDArray[np.datetime64]
    amounts: NDArray[np.float64]
    is_fraud: NDArray[np.bool_]
    scores: NDArray[np.float64]
    nightly_stopped: NDArray[np.bool_]

    def time_of(self, sent: float) -> np.datetime64:
        """Return the time of the payment that is sent after so many; of the last one for more."""
        return np.datetime64(self.times[min(int(sent), len(self.times) - 1)])

    def decide(self, answers: Sequence[bytes | None]) -> Decided:
        """Return the decisions on the payments that were answered with one; each payment counts once."""
        found: list[tuple[int, Any]] = []
        for index, answer in enumerate(answers[: len(self.bodies)]):
            decision = json.loads(answer) if answer else {}
            if "decision" in decision:
                found.append((index, decision))
        at = np.array([index for index, _ in found], dtype=np.intp)
        labels = np.array([decision["decision"] for _, decision in found], dtype=np.str_)
        served = np.array([decision["score"] for _, decision in found])
        differences = np.abs(served - self.scores[at])
        is_same = differences <= SCORE_DIFFERENCE_MAX
        return Decided(
            labels=labels,
            is_fraud=self.is_fraud[at],
            amounts=self.amounts[at],
            nightly_stopped=self.nightly_stopped[at],
            batch_stopped=stop_hourly(self.customers[at], self.times[at], labels != "allow"),
            differing=int(np.count_nonzero(~is_same)),
            score_difference_max=float(differences[is_same].max(initial=0.0)),
        )


def stop_hourly(
    customers: NDArray[np.int64], times: NDArray[np.datetime64], flagged: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the payments that an hourly job stops: on a card it flagged at an earlier full hour of the same day."""
    stopped = np.zeros(len(customers), dtype=bool)
    days, hours = times.astype("datetime64[D]"), times.astype("datetime64[h]")
    cards_stopped: dict[tuple[Any, Any], Any] = {}  # the hour of the first payment that was flagged on a card and day
    for index in range(len(customers)):
        card = (customers[index], days[index])
        since = cards_stopped.get(card)
        if since is not None and hours[index] > since:
            stopped[index] = True
        elif flagged[index] and since is None:
            cards_stopped[card] = hours[index]
    return stopped


def read_replay(folder: Path) -> Replay:
    """Return the replay that prepare.py wrote."""
    import pyarrow.parquet as pq

    known = pq.read_table(folder / "replay_labels.parquet")
    bodies = (folder / "replay.jsonl").read_bytes().splitlines()
    return Replay(
        bodies,
        customers=known["customer_id"].to_numpy().astype(np.int64),
        times=known["time"].to_numpy(),
        amounts=known["amount"].to_numpy(),
        is_fraud=known["is_fraud"].to_numpy().astype(bool),
        scores=known["score"].to_numpy(),
        nightly_stopped=known["nightly_stopped"].to_numpy(),
    )
