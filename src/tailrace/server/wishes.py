"""What a caller may say of a call beside its request, in any protocol: how much time it has, how much it matters."""

from __future__ import annotations

from typing import Final

from tailrace.deadline import NS_PER_MS
from tailrace.errors import ClientError
from tailrace.request.priority import PRIORITIES, Priority

BUDGET_MS_MAX: Final = 3_600_000.0
REQUEST_ID_BYTES_MAX: Final = 128
"""Of the caller's id of a call; what is beyond is not told back."""


def read_budget(value: bytes | None) -> int:
    """Return the nanoseconds of an X-Budget-Ms header; 0 where there is none."""
    if value is None:
        return 0
    try:
        budget_ms = float(value)
    except ValueError:
        budget_ms = -1.0
    if not 0 < budget_ms <= BUDGET_MS_MAX:
        what = f"X-Budget-Ms is {value.strip().decode('latin-1')!r}"
        raise ClientError(what, where="X-Budget-Ms", next="send milliseconds, such as 25")
    return max(int(budget_ms * NS_PER_MS), 1)


def read_priority(value: bytes | None) -> Priority | None:
    """Return the level of an X-Priority header; None where there is none."""
    if value is None:
        return None
    name = value.strip().lower().decode("latin-1")
    if name not in PRIORITIES:
        raise ClientError(f"X-Priority is {name!r}", where="X-Priority", next="send high, normal or low")
    return PRIORITIES[name]
