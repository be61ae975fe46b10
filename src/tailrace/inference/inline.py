"""What may run on the loop, which holds up all else there, and what a batch costs beside its models."""

from __future__ import annotations

from typing import Final

from tailrace.deadline import NS_PER_MS, Budget

INLINE_NS_MAX: Final = 1 * NS_PER_MS
"""A call expected to take less runs on the loop; a heavier one on a thread, while the next batch gathers. What a stage
is made of counts together, and explaining counts beside it."""

OVERHEAD_NS: Final = 150_000
"""What a batch costs beside its models, roughly (bench/layers.py): cutting a batch in two pays it twice."""

ROWS_INLINE_MAX: Final = 100_000


def inline_ns_of(budget: Budget) -> int:
    """Return what a call of a pipeline's stage may take on the loop."""
    return min(INLINE_NS_MAX, budget.total_ns // 10)


def slice_ns_of(budget: Budget) -> int:
    """Return what a batch on a thread may take: a call that comes as it begins has time for it and for its own."""
    return budget.total_ns // 3
