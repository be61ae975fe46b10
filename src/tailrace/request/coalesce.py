"""The declaration that identical requests share one computation. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Any, Final

from tailrace.deadline import NS_PER_S, parse_duration

TTL_NS_MAX: Final = 3_600 * NS_PER_S
ANSWERS_MAX: Final = 10_000
BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True, init=False)
class Coalesce:
    """Identical requests that are in flight at once share one computation; with a ttl, later ones its answer too.

    on: the fields that the answer depends on (`Ranking.user_id`): requests that agree in them are identical. None: all.
        A field that is only sent back may be left out: each caller gets its own.
    ttl: for how long an answer is kept, as "1s", from when its batch began; None keeps none. At most an hour.
    answers_max, bytes_max: of what a worker keeps.
    across_callers: whether callers whose keys have other scopes share too; say so only where answers do not depend on
        who asks.
    Raises ValueError for fields that are none, a ttl that is none, or bounds below one.
    """

    on: tuple[Any, ...] | None
    ttl_ns: int
    answers_max: int
    bytes_max: int
    across_callers: bool

    def __init__(
        self,
        on: Sequence[Any] | None = None,
        *,
        ttl: str | None = None,
        answers_max: int = ANSWERS_MAX,
        bytes_max: int = BYTES_MAX,
        across_callers: bool = False,
    ) -> None:
        given: dict[str, Any] = {"on": None if on is None else _fields(on), "ttl_ns": _ttl_ns(ttl)}
        for name, value in (("answers_max", answers_max), ("bytes_max", bytes_max)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Coalesce({name}={value!r}): it is a whole number above zero")
            given[name] = value
        for name, value in (given | {"across_callers": bool(across_callers)}).items():
            object.__setattr__(self, name, value)


def _fields(on: Sequence[Any]) -> tuple[Any, ...]:
    """Return the fields. Raises ValueError where something is none."""
    if not isinstance(on, Sequence) or isinstance(on, str) or not on:
        raise ValueError(f"Coalesce(on={on!r}): list fields of the request, such as on=[Ranking.user_id], or leave it")
    for field in on:
        if not isinstance(field, MemberDescriptorType):
            raise ValueError(f"Coalesce(on=…): {field!r} is no field of a request; write Ranking.user_id")
    return tuple(on)


def _ttl_ns(ttl: str | None) -> int:
    """Return the nanoseconds of a ttl, 0 for none. Raises ValueError."""
    if ttl is None:
        return 0
    ttl_ns = parse_duration(ttl)
    if not 0 < ttl_ns <= TTL_NS_MAX:
        raise ValueError(f"Coalesce(ttl={ttl!r}): an answer is kept for more than no time, and for an hour at most")
    return ttl_ns
