"""The recorder that tells the observer of each batch: it holds batches for some milliseconds, and writes them together.

What it holds is let go of at the next flush: the arrays of a batch are its own, neither reused by a model nor mapped
from a store, and its calls may outlive their connections for so long. Held together, batches cost one concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from operator import attrgetter, is_not
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.compile.binding import reader_of
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import Origin
from tailrace.deadline import NS_PER_S, Clock
from tailrace.features.view_rows import ViewRows
from tailrace.inference.composition.declarations import compositions_of
from tailrace.loop_load import Loop
from tailrace.monitor.frames import MARKS, Column, FeatureSchema, Frame, FrameSchema, ViewPart, schema_of_view
from tailrace.monitor.metrics import slug
from tailrace.monitor.redacting import redacted_fields, schema_that_redacts
from tailrace.monitor.ring import RingWriter
from tailrace.pipeline import Pipeline

HELD_S: Final = 0.02
"""How long a batch is held at most."""
HELD_BATCHES_MAX: Final = 256
HELD_ROWS_MAX: Final = 1_024
"""Batches are held until they are so many, or have so many rows."""
_LOG_NS: Final = 60 * NS_PER_S
_NO_TRACE: Final = (b"", b"")
_arrival_of = attrgetter("arrival_ns")
_PARTS: Final = (
    "calls", "requests", "rows", "offsets", "row_bounds", "marks_ns", "view_rows", "scores", "decisions", "reasons",
    "degraded", "failed", "errors", "branches",
)  # fmt: skip
_parts_of = attrgetter(*_PARTS)


class Tap:
    """Tells the observer of one pipeline's batches; a recorder of its engine. traced: spans are made of them."""

    def __init__(
        self,
        pipeline: Pipeline,
        release: str,
        ring: RingWriter,
        clock: Clock,
        loop: Loop,
        log: Any,
        *,
        traced: bool = False,
    ) -> None:
        self._is_traced = traced
        wiring = wire(pipeline)
        self._ring, self._clock, self._loop, self._log = ring, clock, loop, log
        secret = redacted_fields(pipeline.request)
        own = [each for each in wiring.features.items() if each[1].origin is not Origin.VIEW]
        self._reads: list[Callable[[Batch], Any]] = [reader_of(each).read for _, each in own]
        places = {name: place for place, (name, _) in enumerate(own)}
        features = [
            FeatureSchema(
                name, each.view, each.name, places.get(name, -1),
                is_redacted=each.origin is Origin.REQUEST and each.name in secret,
            )
            for name, each in wiring.features.items()
        ]  # fmt: skip
        self._views = [
            (view.__name__, wiring.expanded is not None and not wiring.expands(place))
            for place, view in enumerate(wiring.views)
        ]
        self._schema = FrameSchema(
            pipeline=pipeline.name, release=release, slot=ring.slot, features=features, views=[],
            labels=wiring.labels,
            branches={each.name: list(each.branches) for each in compositions_of(pipeline.model)},
            redacts=schema_that_redacts(pipeline.request),
        )  # fmt: skip
        self._schema_json = b""
        self._held: list[Batch] = []
        self._finished_ns: list[int] = []
        self._rows = 0
        self._logged_ns = -_LOG_NS
        self._encode = msgspec.msgpack.Encoder().encode
        self._encode_json = msgspec.json.Encoder().encode

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Hold a batch; one that broke off is answered again in parts."""
        if len(batch.marks_ns) != MARKS or not batch.rows:
            return
        held = self._held
        if not held:
            self._loop.call_later(HELD_S, self.flush)
        held.append(batch)
        self._finished_ns.append(finished_ns)
        self._rows += batch.rows
        if len(held) >= HELD_BATCHES_MAX or self._rows >= HELD_ROWS_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is held, if anything is. What cannot be written is lost, and counted."""
        batches, finished_ns = self._held, self._finished_ns
        if not batches:
            return
        self._held, self._finished_ns, self._rows = [], [], 0
        requests = list(chain.from_iterable([batch.requests for batch in batches]))
        try:
            written = self._ring.write(self._encode(self._frame(batches, finished_ns, requests)), len(requests))
            cause = "the frame is longer than a quarter of the ring"
        except Exception as error:  # of what a request holds, say: it is never worth a worker
            self._ring.lose(len(requests))
            written, cause = False, repr(error)
        if not written and (now_ns := self._clock.now_ns()) >= self._logged_ns + _LOG_NS:
            self._logged_ns = now_ns
            self._log.warning("predictions are not logged", pipeline=self._schema.pipeline, cause=cause)

    def _frame(self, batches: list[Batch], finished_ns: list[int], requests: list[Any]) -> Frame:
        """Return the frame of some batches."""
        found = dict(zip(_PARTS, zip(*map(_parts_of, batches), strict=True), strict=True))
        calls = list(chain.from_iterable(found["calls"]))
        rows = found["rows"]
        return Frame(
            schema=self._schema_json or self._describe(batches[0]),
            epoch_ns=self._clock.wall_ns() - self._clock.now_ns(),
            requests=self._encode_json(requests),
            batch_calls=list(map(len, found["calls"])),
            call_requests=_lengths(found["offsets"], found["calls"]),
            request_rows=_lengths(found["row_bounds"], found["requests"]),
            marks_ns=list(chain.from_iterable(found["marks_ns"])),
            finished_ns=finished_ns,
            arrivals_ns=list(map(_arrival_of, calls)),
            origins=[call.origin() for call in calls],
            columns=[_column(list(map(read, batches))) for read in self._reads],
            views=[_view_part(parts) for parts in zip(*found["view_rows"], strict=True)],
            scores=_column(found["scores"]),
            decisions=_joined(found["decisions"]),
            reasons=_reasons(found["reasons"], rows),
            degraded=_filled(found["degraded"], rows),
            failed=_filled(found["failed"], rows),
            errors=_errors(batches) if any(found["errors"]) else {},
            branches=_branches(batches) if _is_set(found["branches"]) else {},
            told=[(call.route, *(call.trace or _NO_TRACE)) for call in calls] if self._is_traced else None,
        )

    def _describe(self, batch: Batch) -> bytes:
        """Return the schema, once the rows of the views are known."""
        views = [
            schema_of_view(name, rows.data.dtype, repeats=repeats)
            for (name, repeats), rows in zip(self._views, batch.view_rows, strict=True)
        ]
        self._schema_json = msgspec.json.encode(msgspec.structs.replace(self._schema, views=views))
        return self._schema_json


def _is_set(parts: Sequence[Any]) -> bool:
    """Return whether any batch has a part."""
    return any(map(is_not, parts, repeat(None)))


def _column(parts: Sequence[NDArray[Any]]) -> Column:
    """Return the parts of a column as one."""
    if parts[0].dtype.kind == "O":
        return Column("", items=list(chain.from_iterable([part.tolist() for part in parts])))
    whole = np.concatenate(parts)
    return Column(whole.dtype.str, whole.shape[1:], whole.tobytes())


def _view_part(found: Sequence[ViewRows]) -> ViewPart:
    """Return the rows of one view."""
    strings: dict[str, list[str]] = {}
    for name in found[0].strings:
        strings[name] = list(chain.from_iterable([rows.strings[name] for rows in found]))
    noted = None
    if _is_set([rows.noted for rows in found]):
        noted = b"".join([rows.provenance.tobytes() for rows in found])
    return ViewPart(b"".join([rows.data.tobytes() for rows in found]), strings, noted)


def _joined(parts: Sequence[NDArray[Any] | None]) -> bytes | None:
    found = [part for part in parts if part is not None]
    return np.concatenate(found).astype(np.int64).tobytes() if found else None


def _filled(parts: Sequence[NDArray[Any] | None], rows: Sequence[int]) -> bytes | None:
    """Return a column of bytes, zeros for a batch that has none; None where no batch has it."""
    if not _is_set(parts):
        return None
    return b"".join([bytes(count) if part is None else part.tobytes() for part, count in zip(parts, rows, strict=True)])


def _lengths(bounds: Sequence[Any], items: Sequence[Sequence[Any]]) -> list[int] | None:
    """Return how many each item has, from where its own begin; None where each has one."""
    if not _is_set(bounds):
        return None
    found: list[int] = []
    for part, own in zip(bounds, items, strict=True):
        found += [1] * len(own) if part is None else np.diff(part).tolist()
    return found


def _reasons(parts: Sequence[list[tuple[str, ...]] | None], rows: Sequence[int]) -> list[tuple[str, ...]] | None:
    """Return the reasons of each row; None where no batch has any."""
    if not _is_set(parts):
        return None
    return list(chain.from_iterable([part or [()] * count for part, count in zip(parts, rows, strict=True)]))


def _errors(batches: list[Batch]) -> dict[int, str]:
    """Return the kinds of errors by the places of their calls."""
    found: dict[int, str] = {}
    first = 0
    for batch in batches:
        if batch.errors:
            found |= {first + place: slug(type(error)) for place, error in batch.errors.items()}
        first += len(batch.calls)
    return found


def _branches(batches: list[Batch]) -> dict[str, bytes]:
    """Return which way each row went; -1 where it did not come to a stage."""
    names = dict.fromkeys(chain.from_iterable([batch.branches or () for batch in batches]))
    return {
        name: np.concatenate(
            [(batch.branches or {}).get(name, np.full(batch.rows, -1)) for batch in batches], dtype=np.int64
        ).tobytes()
        for name in names
    }
