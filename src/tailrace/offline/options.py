"""What a materialisation may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.offline.database import DatabaseLimits

BATCH_ROWS: Final = 10_000
_HOUR_NS: Final = 3_600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class MaterializeOptions:
    """How a view is written.

    batch_rows: rows written at a time. wait_ns: how long to wait for another run's lease. resume_ns: how old a run may
    be that is gone on with. skew_ns: how far the source's clock may be ahead of this machine's. keep_old_ns: how long
    the rows of another schema stay after their last run. allow_empty: a source without rows is success. prune: remove
    entities that the source no longer has, `prune_max` of the stored ones at most. take_over: the view's rows are from
    another source or pipeline, and become this one's. limits: what reading the source may take. Raises SetupError for
    a value out of range.
    """

    batch_rows: int = BATCH_ROWS
    wait_ns: int = 0
    resume_ns: int = _HOUR_NS
    skew_ns: int = 10 * NS_PER_S
    keep_old_ns: int = 48 * _HOUR_NS
    allow_empty: bool = False
    prune: bool = False
    prune_max: float = 0.2
    take_over: bool = False
    limits: DatabaseLimits = field(default_factory=DatabaseLimits)

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise SetupError(f"{self.batch_rows} rows cannot be a batch", where="--batch-rows", next="give 1 or more")
        if not 0 <= self.prune_max <= 1:
            raise SetupError(f"{self.prune_max} is no share", where="--prune-max", next="give 0 to 1, as in 0.2")
