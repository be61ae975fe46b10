"""Which calls are recorded: of a pipeline, with a request id, or whose answer meets what is asked of it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tailrace.errors import SetupError

_CONDITION: Final = re.compile(r"\s*(status|ms)\s*(>=|<=|==|=|!=|>|<)\s*(\d+(?:\.\d+)?)\s*")
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "=": operator.eq, "!=": operator.ne,
    ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """Something asked of an answer. what: `status` or `ms`, the time that it took; 0 is the status of none."""

    what: str
    holds: Callable[[float, float], bool]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return what a text such as `status>=400` asks. Raises SetupError."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise SetupError(f"cannot be understood: {text!r}", where="--where",
                             next="write status or ms, a comparison and a number, as in 'status>=400'")  # fmt: skip
        return cls(match[1], _OPERATORS[match[2]], float(match[3]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a call. pipeline, request_id: None for any. conditions: all must hold."""

    pipeline: str | None = None
    request_id: str | None = None
    conditions: Sequence[Condition] = ()

    def takes_request(self, path: str, request_id: str) -> bool:
        """Return whether a request may be one."""
        if self.pipeline is not None and path != f"/v1/pipelines/{self.pipeline}/predict":
            return False
        return self.request_id is None or request_id == self.request_id

    def takes_answer(self, status: int, whole_ms: float) -> bool:
        """Return whether an answer is one."""
        values = {"status": float(status), "ms": whole_ms}
        return all(each.holds(values[each.what], each.bound) for each in self.conditions)
