"""What the hops of a plan read for a request, and what that takes: counted from the plan, measured on a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tailrace.compile.samples import Samples
from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.hops import FeaturesInHops
from tailrace.features.keys import EntityId
from tailrace.features.stores.protocol import OnlineStore, codec_of
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
    was there to be measured, or it failed. failure: why it did.
    """

    views: tuple[str, ...]
    keys: tuple[str, ...]
    keys_a_request: int
    keys_a_row: int
    p50_ns: int | None
    p99_ns: int | None
    failure: str = ""


async def hop_costs(plan: Plan, store: OnlineStore | None, clock: Clock) -> tuple[HopCost, ...]:
    """Return the cost of each hop of a plan. store: open, of any kind; without one, hops are counted alone."""
    costs: list[HopCost] = []
    views = plan.pipeline.views
    for retrieval, ids in zip(plan.features.retrievals, _sample_ids(plan), strict=True):
        own = slice(sum(len(cost.views) for cost in costs), None)
        chosen = views[own][: len(retrieval.codecs)]
        expands = [each.expands for each in plan.features.views[own]][: len(chosen)]
        times_ns, failure = ([], "") if store is None else await _measure(store, retrieval.codecs, ids, clock)
        costs.append(
            HopCost(
                tuple(view.__name__ for view in chosen),
                tuple(", ".join(map(_name_of, view.spec.entity.parts)) for view in chosen),
                expands.count(False),
                expands.count(True),
                times_ns[len(times_ns) // 2] if times_ns else None,
                times_ns[len(times_ns) * 99 // 100] if times_ns else None,
                failure,
            )
        )
    return tuple(costs)


def _name_of(part: str | Column) -> str:
    return f"{part.view}.{part.name}" if isinstance(part, Column) else part


async def _measure(
    store: OnlineStore, codecs: Sequence[ViewCodec], ids: Sequence[Sequence[EntityId]], clock: Clock
) -> tuple[list[int], str]:
    """Return how long each of some fetches took, sorted; or none, and why."""
    now_ns: Callable[[], int] = clock.now_ns
    end_ns = now_ns() + LIMIT_NS
    times_ns: list[int] = []
    try:
        keys = _keys(store, codecs, ids)
        await store.fetch(keys, now_ns() + FETCH_NS_MAX)  # the first one waits for what all others find
        while not times_ns or (len(times_ns) < ROUNDS_MAX and now_ns() < end_ns):
            began_ns = now_ns()
            await store.fetch(keys, began_ns + FETCH_NS_MAX)
            times_ns.append(now_ns() - began_ns)
    except (TimeoutError, ConnectionError, StoreError) as error:
        return [], shown_fault(error)
    return sorted(times_ns), ""


def shown_fault(error: Exception) -> str:
    """Return a store's failure in one line, without what to do next."""
    if isinstance(error, StoreError):
        return f"{error.where}: {error.what}" if error.where else error.what
    return str(error) or type(error).__name__


def _sample_ids(plan: Plan) -> list[list[list[EntityId]]]:
    """Return the ids that each hop asks of each view for a sample request, all of whose rows have one of their own."""
    samples, step = Samples(plan), plan.features.for_samples()
    batch = samples.batch([samples.request(1)], 0, 0)
    plan.request.run(batch)
    hops = step.hops if isinstance(step, FeaturesInHops) else ()
    return [step.ids(batch), *([rows.ids for rows in hop.asked(batch)] for hop in hops)]


def _keys(store: OnlineStore, codecs: Sequence[ViewCodec], ids: Sequence[Sequence[EntityId]]) -> list[bytes]:
    """Return the keys of views, each once, as the store spells them: the plan may be compiled for another one."""
    pairs = zip(codecs, ids, strict=True)
    return list(dict.fromkeys(key for codec, own in pairs for key in codec_of(store, codec.spec).keys(own)))
