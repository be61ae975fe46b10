"""What the hops of a plan read for a request, and what that takes: counted from the plan, measured on a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailrace.batch import Provenance
from tailrace.compile.samples import Samples
from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.hops import FeaturesInHops
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import Column, ViewCodec
from tailrace.plan import Plan

ROUNDS_MAX: Final = 50
LIMIT_NS: Final = 60 * NS_PER_MS
"""For all rounds of a hop."""
FETCH_NS_MAX: Final = 1 * NS_PER_S


@dataclass(frozen=True, slots=True)
class HopCost:
    """One hop: views that are read together, in one round trip of a network store.

    views: their names. keys: what gives the ids of each. keys_a_request, keys_a_row: how many keys are read at most; a
    key that several rows share is read once. p50_ns, p99_ns: of a fetch for one sample request, None where no store
    was there to be measured.
    """

    views: tuple[str, ...]
    keys: tuple[str, ...]
    keys_a_request: int
    keys_a_row: int
    p50_ns: int | None
    p99_ns: int | None


async def hop_costs(plan: Plan, store: OnlineStore | None, clock: Clock) -> tuple[HopCost, ...]:
    """Return the cost of each hop of a plan. store: open; None, or one that fails: nothing is measured."""
    costs: list[HopCost] = []
    views = plan.pipeline.views
    for keys, retrieval in zip(_sample_keys(plan), plan.features.retrievals, strict=True):
        own = slice(sum(len(cost.views) for cost in costs), None)
        chosen = views[own][: len(retrieval.codecs)]
        expands = [each.expands for each in plan.features.views[own]][: len(chosen)]
        times_ns = [] if store is None else await _measure(store, keys, clock)
        costs.append(
            HopCost(
                tuple(view.__name__ for view in chosen),
                tuple(", ".join(map(_name_of, view.spec.entity.parts)) for view in chosen),
                expands.count(False),
                expands.count(True),
                times_ns[len(times_ns) // 2] if times_ns else None,
                times_ns[len(times_ns) * 99 // 100] if times_ns else None,
            )
        )
    return tuple(costs)


def _name_of(part: str | Column) -> str:
    return f"{part.view}.{part.name}" if isinstance(part, Column) else part


async def _measure(store: OnlineStore, keys: Sequence[bytes], clock: Clock) -> list[int]:
    """Return how long each of some fetches took, sorted; none where the store fails."""
    now_ns: Callable[[], int] = clock.now_ns
    end_ns = now_ns() + LIMIT_NS
    times_ns: list[int] = []
    try:
        await store.fetch(keys, now_ns() + FETCH_NS_MAX)  # the first one waits for what all others find
        while not times_ns or (len(times_ns) < ROUNDS_MAX and now_ns() < end_ns):
            began_ns = now_ns()
            await store.fetch(keys, began_ns + FETCH_NS_MAX)
            times_ns.append(now_ns() - began_ns)
    except (TimeoutError, ConnectionError, StoreError):
        return []
    return sorted(times_ns)


def _sample_keys(plan: Plan) -> list[list[bytes]]:
    """Return the keys that each hop reads for a sample request, all of whose rows have one of their own."""
    samples, step = Samples(plan), plan.features
    batch = samples.batch([samples.request(1)], 0, 0)
    plan.request.run(batch)
    if not step.views:
        return [[]]
    keys = [_keys(step.retrieval.codecs, step.ids(batch))]
    batch.view_rows = [
        _numbered(codec, batch.rows if view.expands else len(batch.requests))
        for codec, view in zip(step.codecs, step.views, strict=True)
    ]
    hops = step.hops if isinstance(step, FeaturesInHops) else ()
    keys += [_keys(hop.retrieval.codecs, [rows.ids for rows in hop.asked(batch)]) for hop in hops]
    return keys


def _keys(codecs: Sequence[ViewCodec], ids: Sequence[list[Any]]) -> list[bytes]:
    """Return the keys of views, each once."""
    pairs = zip(codecs, ids, strict=True)
    return list(dict.fromkeys(key for codec, own in pairs for key in codec.keys(own)))


def _numbered(codec: ViewCodec, count: int) -> ViewRows:
    """Return rows of a view as if they had been found, with other values in each."""
    rows = codec.defaults(count, Provenance.FRESH)
    rows.noted = None
    for column in codec.spec.columns:
        if column.is_text:
            rows.strings[column.name] = list(map(str, range(count)))
        elif column.id_type is int:
            rows.data[column.name] = np.arange(count).astype(column.dtype)
    return rows
