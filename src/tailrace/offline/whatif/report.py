"""What a replay came to: decisions that flip, what they are worth, whether they are right, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.offline.whatif.changes import Changes
from tailrace.offline.whatif.lines import LeftOut
from tailrace.offline.whatif.money import ZERO, total

EXAMPLES_MAX: Final = 5
"""Of one flip: those with the most money, or the largest change of score."""
UP: Final = "up"
DOWN: Final = "down"


@dataclass(frozen=True, slots=True)
class Example:
    """One request whose decision flips. id: as the request has it, else its line. where: FILE:LINE.

    why: the features whose contribution changes most, the largest change first.
    """

    id: str
    where: str
    score_before: float
    score_after: float
    amount: Decimal | None
    outcome: str | None
    why: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Reason:
    """How the contribution of one feature changes over the flips, from A to B: sums over rows."""

    moved: float = 0.0
    signed: float = 0.0


@dataclass(slots=True)
class Flip:
    """The rows that A decides one way and B another. direction: to a higher band, a lower one, or "" without an order.

    right, wrong: where the outcome is known. explained: rows whose contributions were computed.
    """

    before: str
    after: str
    direction: str
    rows: int = 0
    money: Decimal = ZERO
    right: int = 0
    wrong: int = 0
    money_right: Decimal = ZERO
    money_wrong: Decimal = ZERO
    examples: list[Example] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    explained: int = 0
    reasons: dict[str, Reason] = field(default_factory=dict)

    def why(self) -> list[tuple[str, float, float]]:
        """Return each feature with its mean absolute change and its mean change, the largest first."""
        rows = self.explained
        found = [(name, each.moved / rows, each.signed / rows) for name, each in self.reasons.items()]
        return sorted(found, key=lambda each: -each[1])


@dataclass(slots=True, kw_only=True)
class WhatIf:
    """A replay. names: of both sides. labels: the decisions, A's first. edges: of each side's bands; empty for none.

    features: where their values are from, in words. amount: the field summed; None without money. rows: that both
    scored and decided; decided: how many of them, (A's label, B's label). degraded: rows left out of that because one
    side's score, or a store, was late or failed, by reason (a row may have several); degraded_rows: how many, and
    degraded_flips: of them decided differently. stale: rows counted, with features older than they may be. unscored:
    rows without a score, of each side. faulted: requests on which a layer raised. samples: counted rows whose served
    score is recorded, and samples_alike: of them those that A scores so. outcomes: known of counted rows. views: where
    the values of each view are from. unexplained: why contributions are not told; "" where they are.
    """

    names: tuple[str, str]
    pipeline: str
    labels: tuple[str, ...]
    edges: tuple[dict[str, float], dict[str, float]]
    amount: str | None
    decided: NDArray[np.int64]
    features: str = ""
    requests: int = 0
    rows: int = 0
    money: Decimal = ZERO
    flips: dict[tuple[int, int], Flip] = field(default_factory=dict)
    degraded: dict[str, int] = field(default_factory=dict)
    degraded_rows: int = 0
    degraded_flips: int = 0
    stale: int = 0
    unscored: tuple[int, int] = (0, 0)
    samples: int = 0
    samples_alike: int = 0
    outcomes: int = 0
    views: dict[str, dict[str, int]] = field(default_factory=dict)
    unread: LeftOut = field(default_factory=LeftOut)
    others: LeftOut = field(default_factory=LeftOut)
    faulted: LeftOut = field(default_factory=LeftOut)
    unexplained: str = ""
    warnings: list[str] = field(default_factory=list)
    scores: Changes = field(default_factory=Changes)

    @property
    def flipped(self) -> int:
        """Rows that flip."""
        return sum(each.rows for each in self.flips.values())

    @property
    def money_flipped(self) -> Decimal:
        """What they are worth."""
        return total(each.money for each in self.flips.values())

    def of(self, direction: str) -> list[Flip]:
        """Return the flips of a direction."""
        return [each for each in self.flips.values() if each.direction == direction]

    @property
    def ordered(self) -> list[Flip]:
        """The flips, those of the most money first, or the most rows."""
        return sorted(self.flips.values(), key=lambda each: (-each.money, -each.rows))
