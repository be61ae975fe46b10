"""What the prediction log keeps of a pipeline, as the pipeline declares it. No I/O; done by the observer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEPT: Final = ("degraded", "failed", "slow")
"""What can be kept whatever the sample is."""


@dataclass(frozen=True, slots=True, init=False)
class Log:
    """What is kept of a pipeline's requests, where the server keeps a log.

    sample: the share of them, from 0 to 1. It is chosen by their ids, so that one that is sent again with its id is
        there again, or is missing again, on whatever server.
    keep: what is kept of the others all the same: "degraded" answers, "failed" ones (an error, or a row without a
        score), and "slow" ones, which took longer than the budget.
    Raises ValueError for what is out of range.
    """

    sample: float
    keep: tuple[str, ...]

    def __init__(self, sample: float = 1.0, *, keep: Sequence[str] = ()) -> None:
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
            raise ValueError(f"Log(sample={sample!r}): choose from 0 to 1")
        if isinstance(keep, str) or not set(keep) <= set(KEPT):
            raise ValueError(f"Log(keep={keep!r}): choose among {', '.join(map(repr, KEPT))}, as in keep=('failed',)")
        object.__setattr__(self, "sample", float(sample))
        object.__setattr__(self, "keep", tuple(keep))


EVERYTHING: Final = Log()
