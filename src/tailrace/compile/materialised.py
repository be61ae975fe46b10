"""Whether a store holds the views of a plan whole, under the schemas that it reads: asked once, before traffic."""

from __future__ import annotations

from typing import Final

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.catalogue import catalogue_key, decode_record, old_progress_key, schema_name
from tailrace.features.rows import RowCodec
from tailrace.plan import Plan

ASK_NS_MAX: Final = 1 * NS_PER_S
_NEXT: Final = "tailrace materialize FILE, then start the server"


async def unknown_views(plan: Plan, clock: Clock) -> list[str]:
    """Return the views of a plan that its store knows nothing of: defaults are served of these.

    That is no error, since a Redis that was emptied must not keep a server from coming back; nor is a store that does
    not answer. Raises StoreError for a view that is another pipeline's, is of the layout before, or whose schema is
    not whole.
    """
    codecs = plan.features.retrieval.codecs
    keys = [key for each in codecs for key in (catalogue_key(each.spec.name), old_progress_key(each.spec.name))]
    if not keys:
        return []
    try:
        found = await plan.store.fetch(keys, clock.now_ns() + ASK_NS_MAX)
    except (TimeoutError, ConnectionError, StoreError):
        return []
    records = zip(codecs, found[::2], found[1::2], strict=True)
    return [codec.spec.name for codec, stored, old in records if not _is_known(plan.name, codec, stored, old)]


def _is_known(pipeline: str, codec: RowCodec, stored: bytes | None, old_progress: bytes | None) -> bool:
    """Return whether the store has a view, which is then the pipeline's and whole. Raises StoreError for any other."""
    view = codec.spec.name
    where = f"features.{view}"
    if stored is None:
        if old_progress is not None:
            raise StoreError("the store holds the view in the layout of an earlier version", where=where,
                             next=f"materialise again: {_NEXT}")  # fmt: skip
        return False
    record = decode_record(view, stored)
    if pipeline not in record.pipelines:
        owners = " and ".join(map(repr, record.pipelines))
        raise StoreError(f"the store's {view} is of pipeline {owners}, not of {pipeline!r}", where=where,
                         next=f"{_NEXT}; or give the pipeline a store of its own")  # fmt: skip
    schema = record.schemas.get(schema_name(codec.schema_id))
    if schema is None or not schema.is_whole:
        state = "not been materialised" if schema is None else "only been materialised in part"
        others = [each.text for each in record.schemas.values() if each.is_whole and each.text]
        whole = f"; whole is {' and '.join(others)}" if others else ""
        raise StoreError(f"the view as it is declared now has {state}{whole}", where=where, next=_NEXT)
    return True
