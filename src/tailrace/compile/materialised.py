"""Whether a store holds the views of a plan whole, under the schemas that it reads: asked once, before traffic."""

from __future__ import annotations

from typing import Final, NamedTuple

from tailrace.compile.hop_costs import shown_fault
from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.catalogue import ViewRecord, catalogue_key, decode_record, old_progress_key, schema_name
from tailrace.features.stores.protocol import ForeignStore
from tailrace.features.streams import StreamViewSpec
from tailrace.features.view_spec import ViewCodec
from tailrace.plan import Plan

ASK_NS_MAX: Final = 1 * NS_PER_S
_NEXT: Final = "tailrace materialize FILE, then start the server"


class CheckedViews(NamedTuple):
    """What a store lacks of a plan's views.

    unknown: the views of which it knows nothing. unfit: why others must not be served, each with where and what next.
    failure: why the store could not be asked, in one line.
    """

    unknown: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    failure: str = ""


async def check_views(plan: Plan, clock: Clock, *, refuse: bool) -> CheckedViews:
    """Ask a plan's store whether it holds every view whole, under the schema that the plan reads.

    A view is unfit that is another pipeline's, is of the layout before, whose schema is not whole, or whose schema a
    take-over has left with rows of another source. Of one that is unknown defaults are served: a Redis that was emptied
    must not keep a server from coming back, nor does a store that does not answer. refuse: raise StoreError for the
    first unfit view. A server does so when it starts, not when it replaces a worker, whose siblings serve on. A store
    that another system fills has no record of a view: those are unfit that it cannot hold.
    """
    if isinstance(plan.store, ForeignStore):
        return _check_foreign(plan, plan.store, refuse=refuse)
    codecs = plan.features.codecs
    keys = [key for each in codecs for key in (catalogue_key(each.spec.name), old_progress_key(each.spec.name))]
    if not keys:
        return CheckedViews()
    try:
        found = await plan.store.fetch(keys, clock.now_ns() + ASK_NS_MAX)
    except (TimeoutError, ConnectionError, StoreError) as error:
        return CheckedViews(failure=shown_fault(error))
    unknown, unfit = [], []
    for codec, stored, old_progress in zip(codecs, found[::2], found[1::2], strict=True):
        if stored is None and (isinstance(codec.spec, StreamViewSpec) or old_progress is None):
            if not isinstance(codec.spec, StreamViewSpec):  # the first event makes a stream view known
                unknown.append(codec.spec.name)
        elif fault := _fault(plan.name, codec, stored):
            if refuse:
                raise fault
            unfit.append(str(fault))
    return CheckedViews(tuple(unknown), tuple(unfit))


def _check_foreign(plan: Plan, store: ForeignStore, *, refuse: bool) -> CheckedViews:
    unfit = []
    for codec in plan.features.codecs:
        try:
            store.codec(codec.spec)
        except StoreError as error:
            if refuse:
                raise
            unfit.append(str(error))
    return CheckedViews(unfit=tuple(unfit))


def history_fault(spec: StreamViewSpec, record: ViewRecord | None) -> StoreError | None:
    """Return that a stream view lacks its history as it is declared, where another definition has it; else None."""
    schemas = {} if record is None else record.schemas
    schema = schemas.get(schema_name(spec.schema_id))
    if (schema is not None and schema.is_whole) or not any(each.is_whole for each in schemas.values()):
        return None
    others = " and ".join(each.text for each in schemas.values() if each.is_whole and each.text)
    return StoreError(f"the view as it is declared now lacks its history; whole is {others}",
                      where=f"features.{spec.name}",
                      next=f"tailrace backfill FILE --view {spec.name}, then start the server")  # fmt: skip


def _fault(pipeline: str, codec: ViewCodec, stored: bytes | None) -> StoreError | None:
    """Return why a view must not be served, None where it may. stored: None is the layout before."""
    view = codec.spec.name
    where = f"features.{view}"
    if stored is None:
        return StoreError("the store holds the view in the layout of an earlier version", where=where,
                          next=f"materialise again: {_NEXT}")  # fmt: skip
    try:
        record = decode_record(view, stored)
    except StoreError as error:
        return error
    if isinstance(codec.spec, StreamViewSpec):
        return history_fault(codec.spec, record)
    return _batch_fault(pipeline, codec, record)


def _batch_fault(pipeline: str, codec: ViewCodec, record: ViewRecord) -> StoreError | None:
    """Return why a batch view must not be served, None where it may."""
    where = f"features.{codec.spec.name}"
    if pipeline not in record.pipelines:
        owners = " and ".join(map(repr, record.pipelines))
        return StoreError(f"the store's {codec.spec.name} is of pipeline {owners}, not of {pipeline!r}", where=where,
                          next=f"{_NEXT}; or give the pipeline a store of its own")  # fmt: skip
    schema = record.schemas.get(schema_name(codec.schema_id))
    if schema is not None and schema.is_mixed:
        return StoreError("the view as it is declared now has rows of two sources: no run of it has ended since "
                          "--take-over", where=where, next=_NEXT)  # fmt: skip
    if schema is None or not schema.is_fit:
        state = "not been materialised" if schema is None else "only been materialised in part"
        others = [each.text for each in record.schemas.values() if each.is_fit and each.text]
        whole = f"; whole is {' and '.join(others)}" if others else ""
        return StoreError(f"the view as it is declared now has {state}{whole}", where=where, next=_NEXT)
    return None
