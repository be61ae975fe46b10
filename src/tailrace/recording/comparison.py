"""What is another answer than the recorded one: its status, and where in its body."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tailrace.codecs.inflating import CODINGS
from tailrace.recording.answers import Answer
from tailrace.recording.file import RecordedCall
from tailrace.recording.redaction import INFLATED_BYTES_MAX
from tailrace.recording.stream import fields_of

DIFFERENCES_MAX: Final = 10
"""Of one answer that are told."""
_NONE: Final = object()


@dataclass(slots=True)
class Outcome:
    """What became of one call. differences: of its answer; answer None: it was not sent, for what `left_out` tells."""

    call: RecordedCall
    answer: Answer | None
    differences: list[str] = field(default_factory=list)
    left_out: str = ""

    @property
    def is_same(self) -> bool:
        """Whether it was answered as it was recorded."""
        return self.answer is not None and not self.differences


def compared(call: RecordedCall, answer: Answer, *, tolerance: float = 0.0) -> Outcome:
    """Return what is different. tolerance: by how much numbers may be, absolute or relative, whichever is more."""
    outcome = Outcome(call, answer)
    if call.status != answer.status:
        outcome.differences.append(f"status {call.status} → {answer.status}")
    if call.answer is None:
        return outcome
    before, after = _value(call.answer_head, call.answer), _value(answer.head, answer.body)
    found = _differences(before, after, "$", tolerance)
    for where, told in found:
        if not any(where == path or where.startswith((f"{path}.", f"{path}[")) for path in call.answer_redacted):
            outcome.differences.append(f"{where} {told}")
        if len(outcome.differences) >= DIFFERENCES_MAX:
            break
    return outcome


def _value(head: bytes, body: bytes) -> Any:
    """Return what a body says; its bytes, where it is neither JSON nor MessagePack.

    One that was masked is not compressed any more, whatever its head says.
    """
    fields = fields_of(head)
    kind = fields.get(b"content-type", b"").partition(b";")[0].lower()
    if (inflate := CODINGS.get(fields.get(b"content-encoding", b"").lower())) is not None:
        inflated = inflate(body, INFLATED_BYTES_MAX)
        body = inflated if isinstance(inflated, bytes) else body
    try:
        if kind.endswith(b"json"):
            return msgspec.json.decode(body)
        if kind.endswith(b"msgpack"):
            return msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return body


def _differences(before: Any, after: Any, path: str, tolerance: float) -> Iterator[tuple[str, str]]:
    """Give the paths at which two values differ, and how."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            each = before.get(name, _NONE), after.get(name, _NONE)
            yield from _differences(*each, f"{path}.{name}", tolerance)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, each in enumerate(zip(before, after, strict=True)):
            yield from _differences(*each, f"{path}[{place}]", tolerance)
    elif not _are_close(before, after, tolerance):
        yield path, f"{_told(before)} → {_told(after)}"


def _are_close(before: Any, after: Any, tolerance: float) -> bool:
    numbers = [value for value in (before, after) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2 and tolerance:
        return math.isclose(*numbers, rel_tol=tolerance, abs_tol=tolerance)
    return type(before) is type(after) and bool(before == after)


def _told(value: Any) -> str:
    """Return a value as it is shown, cut where it is long."""
    if value is _NONE:
        return "nothing"
    text = repr(value) if isinstance(value, bytes) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def same(outcomes: Sequence[Outcome]) -> int:
    """Return how many were answered as they were recorded."""
    return sum(outcome.is_same for outcome in outcomes)
