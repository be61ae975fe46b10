"""From lines of the log to requests as they were answered: rows together, copies counted, retries apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec

from tailrace.deadline import LAYERS
from tailrace.monitor.log.lookup import FoundLine
from tailrace.offline.explanation.document import Answered, Feature, LayerTime, Row


def answers_of(lines: Sequence[FoundLine]) -> list[Answered]:
    """Return the requests that lines tell of, the oldest first.

    A line that the log has twice is one: an observer that was killed had written it before. Requests of one time and
    worker are those of one call that was an array.
    """
    found: dict[bytes, Answered] = {}
    for rows in _requests(lines):
        key = _key(rows)
        if key in found:
            found[key].copies += 1
            found[key].files = list(dict.fromkeys([*found[key].files, rows[0].file]))
        else:
            found[key] = _answered(rows)
    answers = list(found.values())
    for _, group in groupby(answers, key=lambda each: (each.pipeline, each.time, each.slot, each.whole_us)):
        call = list(group)
        for place, each in enumerate(call):
            each.item, each.items = place, len(call)
    return answers


def _requests(lines: Iterable[FoundLine]) -> Iterator[list[FoundLine]]:
    """Give the lines of each request: as a file has them, from its first row on."""
    held: list[FoundLine] = []
    for line in sorted(lines, key=lambda each: (str(each.values.get("time")), each.file, each.place)):
        if held and (line.file != held[0].file or line.values.get("row", 0) != held[-1].values.get("row", 0) + 1):
            yield held
            held = []
        held.append(line)
    if held:
        yield held


def _key(rows: Sequence[FoundLine]) -> bytes:
    """Return what two copies of a request have in common, and no others."""
    return repr([(each.pipeline, sorted(each.values.items(), key=lambda item: item[0])) for each in rows]).encode()


def _answered(rows: Sequence[FoundLine]) -> Answered:
    first = rows[0].values
    took = [LayerTime(layer=layer, took_us=first.get(f"{layer}_us") or 0) for layer in LAYERS]
    return Answered(
        pipeline=rows[0].pipeline, release=first.get("release") or "", time=first.get("time"), files=[rows[0].file],
        copies=1, item=0, items=1, trace=first.get("trace") or "", client=first.get("client") or "",
        slot=first.get("slot"), error=first.get("error") or "", coalesced=first.get("coalesced") or "",
        answer=_decoded(first.get("answer")), request=_decoded(first.get("request")), redacted=[],
        wait_us=first.get("wait_us") or 0, layers=took, whole_us=first.get("whole_us") or 0, budget_us=None, models=[],
        rows=[_row(each.values) for each in rows if each.values.get("failed") is not None],
    )  # fmt: skip


def _decoded(request: str | None) -> Any:
    """Return the JSON of a request; the text itself where it is none."""
    if request is None:
        return None
    try:
        return msgspec.json.decode(request)
    except msgspec.DecodeError:
        return request


def _row(line: dict[str, Any]) -> Row:
    provenance, event_time = line.get("provenance") or {}, line.get("event_time") or {}
    return Row(
        row=line.get("row") or 0, failed=bool(line.get("failed")), score=line.get("score"),
        decision=line.get("decision"), reasons=line.get("reasons") or [], degraded=line.get("degraded") or [],
        branches=line.get("branches") or {},
        features=[
            _feature(name, value, provenance, event_time, line.get("time"))
            for name, value in (line.get("features") or {}).items()
        ],
    )  # fmt: skip


def _feature(
    name: str, value: Any, provenance: dict[str, str], event_time: dict[str, datetime | None], at: datetime | None
) -> Feature:
    view = name.partition(".")[0]
    view = view if "." in name and view in provenance else ""
    then = event_time.get(view) if view else None
    age_s = None if then is None or at is None else round((at - then).total_seconds(), 6)
    return Feature(name=name, value=value, view=view, provenance=provenance.get(view) or "", event_time=then,
                   age_s=age_s)  # fmt: skip


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal to the bit, as far as JSON knows bits: NaN is NaN, 0.0 is not -0.0."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and bool(one == other)
