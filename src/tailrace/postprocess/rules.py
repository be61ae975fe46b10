"""Rules: what holds whatever the score, such as "never block under $10"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on columns that sets the decision of the rows it holds for.

    name: the rule's own, and its reason code unless `reason` gives another.
    when: a function of columns returning a bool array, shape (rows,). Its parameters are named for what they take:
        `request`, `score`, `decision` (the label so far), a view in snake case, or an on-demand feature.
    then: the decision it sets.
    priority: a higher one is applied later, and so wins. Rules of equal priority: the one declared first wins.
    """

    name: str
    when: Callable[..., Any]
    then: str
    priority: int = 0
    reason: str | None = None

    @property
    def code(self) -> str:
        """The reason code in the response."""
        return self.reason or self.name
