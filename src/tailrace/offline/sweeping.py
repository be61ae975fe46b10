"""Sweeping: what a run removes from the store, entities that the source no longer has and schemas of before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SourceError, StoreError
from tailrace.features.catalogue import SchemaRecord, ViewRecord, key_end
from tailrace.features.keys import KeyFormat
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stores.runs import Run
from tailrace.features.view_spec import ViewCodec

KEYS_PER_STEP: Final = 10_000
SCHEMAS_MAX: Final = 8
"""Of one view in a store. A run that would add one more is refused: a server may read any of those that are there."""


class KnownKeys:
    """The keys of every entity of a source, as a number of 64 bits each: 8 MB for a million.

    Two keys of one number would keep an entity that is gone, never remove one that is not.
    """

    def __init__(self, codec: ViewCodec, pages: Iterable[list[Any]]) -> None:
        numbers = [_numbers(codec.keys(ids)) for ids in pages]
        self._numbers = np.unique(np.concatenate(numbers)) if numbers else np.empty(0, np.int64)

    def lacking(self, keys: list[bytes]) -> list[bytes]:
        """Return those of some keys that the source does not have."""
        known = np.isin(_numbers(keys), self._numbers)
        return [key for key, is_known in zip(keys, known.tolist(), strict=True) if not is_known]


def prune(writer: StoreWriter, run: Run, codec: ViewCodec, known: KnownKeys, share_max: float) -> int:
    """Remove the entities that the source no longer has; return how many. Raises SourceError for more than a share."""
    keys = KeyFormat(codec.spec.entity.name, key_end(codec.spec.name, f"{codec.schema_id:08x}"))
    stored = gone = 0
    for step in _steps(writer.scan(keys.begin, keys.end)):
        stored += len(step)
        gone += len(known.lacking(step))
    if gone > share_max * stored:
        raise SourceError(
            f"{gone:,} of {stored:,} stored entities are gone from the source, more than a share of {share_max:g}: "
            "none of them is removed",
            where=f"features.{codec.spec.name}",
            next=f"see whether the source is whole; if it is, --prune-max {min(1.0, gone / stored + 0.01):.2f}",
        )
    if not gone:
        return 0
    return sum(writer.remove(run, known.lacking(step)) for step in _steps(writer.scan(keys.begin, keys.end)))


def check_room(record: ViewRecord, own: str, view: str) -> None:
    """Raise StoreError where a view would have too many schemas with this one."""
    if own in record.schemas or len(record.schemas) < SCHEMAS_MAX:
        return
    raise StoreError(
        f"the store has {len(record.schemas)} schemas of the view, and servers may read each: no other is added",
        where=f"features.{view}",
        next="once no server reads the others, materialise the pipeline that is served, twice with --keep-old 0s: that "
        "removes them; or give this one a store of its own",
    )


def is_settled(record: ViewRecord, own: str, now_ns: int) -> bool:
    """Return whether a schema is fit and the last that was run, since a moment that can be believed."""
    schema = record.schemas.get(own)
    if schema is None or not schema.is_fit or not schema.whole_ns:
        return False
    # A run later than now: its clock was ahead, or this one is behind. Then it is not known when anything was.
    is_past = schema.whole_ns <= schema.at_ns <= now_ns
    return is_past and all(each.run <= schema.run for each in record.schemas.values())


def corrected(record: ViewRecord, own: str, now_ns: int) -> ViewRecord:
    """Return the record without times of other schemas that are later than now, where two runs agree that they are.

    Such a schema was run by a clock that was ahead, and would stay until that date. It counts as run when the last run
    of the own one was, which came after it. By one run alone nothing is corrected: its clock may be behind.
    record: as it was before the run.
    """
    if not is_settled(record, own, now_ns):
        return record
    agreed_ns = record.schemas[own].at_ns
    schemas = {
        name: msgspec.structs.replace(each, at_ns=agreed_ns) if each.at_ns > now_ns else each
        for name, each in record.schemas.items()
    }
    return msgspec.structs.replace(record, schemas=schemas)


def outdated(record: ViewRecord, own: str, now_ns: int, keep_ns: int) -> list[str]:
    """Return the schemas that a run of another may remove, once it has ended.

    Servers that have yet to be replaced read them, so both have been so for `keep_ns`: they were not run, and the own
    one was whole.
    record: as it was before the run, corrected.
    """
    if not is_settled(record, own, now_ns):
        return []
    schema = record.schemas[own]
    # By the clock of this run and by that of the run before: one run whose clock is ahead removes nothing, and the one
    # behind it finds a run of the future and begins to count anew. Only two such runs in turn would be believed.
    agreed_ns = min(now_ns, schema.at_ns)
    return [
        name
        for name, each in record.schemas.items()
        if name != own and agreed_ns - max(schema.whole_ns, each.at_ns) >= keep_ns
    ]


def remove_schema(writer: StoreWriter, run: Run, name: str, schema: SchemaRecord) -> int:
    """Remove every row of one schema of a view; return how many."""
    keys = KeyFormat(schema.entity, key_end(run.view, name))
    return sum(writer.remove(run, step) for step in _steps(writer.scan(keys.begin, keys.end)))


def _steps(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while step := list(islice(keys, KEYS_PER_STEP)):
        yield step


def _numbers(keys: list[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
