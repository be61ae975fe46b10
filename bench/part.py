"""A part of the benchmark: a name to ask for it by, what it measures, and the lines of its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from figures import Figures
from peers import PREPARED, WORKPLACE
from replay import Replay

BASE: Final = "109d1f3"
"""The commit that `before` compares with, unless another is asked for."""

Chosen = TypeVar("Chosen")


@dataclass
class Session:
    """What the parts of one run share. tell: called at each step. notes: what a reader of the figures must know.

    quick: one short round of everything. base: the commit that is compared with. capacity_rps: of the costly model
    (capacity.py) on one core, once a part has sought it, which takes half a minute; another part has it then. known:
    what the file holds already. took_s: what each part took that is measured.
    """

    tell: Callable[[str], None] = lambda step: None
    quick: bool = False
    base: str = BASE
    capacity_rps: float | None = None
    known: Figures = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)

    def pick(self, full: Chosen, quick: Chosen) -> Chosen:
        """Return the first, or the second where a quick run is asked for."""
        return quick if self.quick else full

    @cached_property
    def replay(self) -> Replay:
        """The load generator in C, compiled when first asked for."""
        return Replay(WORKPLACE)

    @property
    def bodies(self) -> Path:
        """The file of the fraud example's payments."""
        return PREPARED / "replay.jsonl"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: a figure, and what it must and should reach where that is asked. None: not measured."""

    name: str
    value: float | str | None
    must: float | None = None
    aim: float | None = None
    unit: str = ""
    more_is_better: bool = False

    def reaches(self, bound: float) -> bool:
        """Say whether the figure is as good as a bound."""
        assert isinstance(self.value, float | int)
        return self.value >= bound if self.more_is_better else self.value <= bound

    def write(self, value: float | str | None) -> str:
        """Return a value with its unit."""
        if value is None:
            return "-"
        if isinstance(value, str):
            return value
        digits = 0 if abs(value) >= 100 or float(value).is_integer() else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}{self.unit}"


@dataclass(frozen=True, slots=True)
class Part:
    """One part. steps: how often it tells of a step, about. measure: returns its keys of the file.

    lines: of its table, from what it measured. caveats: to be read before the figures.
    """

    name: str
    about: str
    caveats: Sequence[str]
    steps: Callable[[Session], int]
    measure: Callable[[Session], Figures]
    lines: Callable[[Figures], Sequence[Line]]
