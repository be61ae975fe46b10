"""What a materialisation may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tailrace.deadline import parse_duration
from tailrace.errors import SetupError
from tailrace.offline.database import DatabaseLimits

BATCH_ROWS: Final = 10_000
PRUNE_MAX: Final = 0.2
WAIT: Final = "0s"
RESUME_WITHIN: Final = "1h"
CLOCK_SKEW: Final = "10s"
KEEP_OLD: Final = "2d"
"""Defaults, as the command line shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeOptions:
    """How a view is written.

    batch_rows: rows written at a time. wait_ns: how long to wait for another run's lease. resume_ns: how old a run may
    be that is resumed. skew_ns: how far the source's clock may be ahead of this machine's. keep_old_ns: how long
    the rows of another schema stay after the new one is whole. allow_empty: a source without rows is success. prune:
    remove entities that the source no longer has, `prune_max` of the stored ones at most. take_over: the view's rows
    are from another source or pipeline, and become this one's. limits: what reading the source may take. Raises
    SetupError for a value out of range.
    """

    batch_rows: int = BATCH_ROWS
    wait_ns: int = parse_duration(WAIT)
    resume_ns: int = parse_duration(RESUME_WITHIN)
    skew_ns: int = parse_duration(CLOCK_SKEW)
    keep_old_ns: int = parse_duration(KEEP_OLD)
    allow_empty: bool = False
    prune: bool = False
    prune_max: float = PRUNE_MAX
    take_over: bool = False
    limits: DatabaseLimits = field(default_factory=DatabaseLimits)

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise SetupError(f"{self.batch_rows} rows cannot be a batch", where="--batch-rows", next="give 1 or more")
        if not 0 <= self.prune_max <= 1:
            raise SetupError(f"{self.prune_max} is no share", where="--prune-max", next="give 0 to 1, as in 0.2")
