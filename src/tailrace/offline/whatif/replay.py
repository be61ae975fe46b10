"""Replays requests through two pipelines, and changes nothing: no store, no registry, no event is written.

requests --page by page--> features, read once where both sides share them
    --layers 3, 4, 5 of A, and of B--> two decisions a row --> the tally --> the report
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from tailrace.compile.binding import request_step
from tailrace.compile.compiler import compile_plan
from tailrace.compile.materialised import check_views
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import Wiring
from tailrace.deadline import INFERENCE, Budget, LayerLimit, MonotonicClock
from tailrace.errors import CompileError, Problem, SetupError
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, resolve_url, store_identity
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.stores.redis_address import without_password
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.remote.stage import RemoteStage
from tailrace.inference.stage import walk_stages
from tailrace.inference.step import InferenceStep
from tailrace.offline.whatif.contributions import Contributions
from tailrace.offline.whatif.lines import RequestLines
from tailrace.offline.whatif.money import amount_field
from tailrace.offline.whatif.outcomes import read_outcomes
from tailrace.offline.whatif.pages import Replay, pages_of
from tailrace.offline.whatif.recorded import RecordedFeatures
from tailrace.offline.whatif.report import WhatIf
from tailrace.offline.whatif.sides import Side
from tailrace.offline.whatif.tally import Tally
from tailrace.pipeline import Pipeline, is_event_of, stream_views
from tailrace.plan import Plan
from tailrace.postprocess.bands import Bands
from tailrace.request.rows import ARRAY_MAX

BUDGET: Final = "60s"
"""Of a page: nobody waits for a replay, and a score that came too late in serving is not what is asked about."""
WEIGHS: Final = (
    "the log has a share of the requests, and all that went badly; each counts once here, so that these weigh more"
)
_ID: Final = "id"
_CLOCK: Final = MonotonicClock()

OnPage = Callable[[int, int, int], None]
"""Is told of requests replayed, bytes read, bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is replayed, and how.

    store: in place of the declared. amount: the field that is money, see `amount_field`. outcomes: a file of them by
    id; label: its column, or the name in each line. id_field: that tells requests apart; None for that of a stream that
    they are events of, or a field `id`. limit: requests at most. since_ns, until_ns: of answers, of a log alone.
    """

    requests: Path
    store: str | None = None
    amount: str | None = None
    outcomes: Path | None = None
    label: str | None = None
    id_field: str | None = None
    limit: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None


def what_if(sides: tuple[Side, Side], asking: Asking, on_page: OnPage = lambda done, read, whole: None) -> WhatIf:
    """Replay requests through both sides. Raises SetupError for what cannot be compared, or read.

    Where the sides are two models of one pipeline, both have the same features, to the bit.
    """
    return asyncio.run(_replay(sides, asking, on_page))


async def _replay(sides: tuple[Side, Side], asking: Asking, on_page: OnPage) -> WhatIf:
    shares = sides[0].pipeline.features is sides[1].pipeline.features
    wirings = (_wired(sides[0]), _wired(sides[1]))
    pipelines = (sides[0].pipeline, sides[1].pipeline)
    recorded = [RecordedFeatures(wiring, on_demand=shares) for wiring in wirings]
    rows = request_step(pipelines[0], wirings[0], ARRAY_MAX).rows
    lines = RequestLines(
        asking.requests, pipelines, rows, recorded[0].needed | recorded[1].needed,
        asking.label if asking.outcomes is None else None, asking.since_ns, asking.until_ns,
    )  # fmt: skip
    id_field = _id_field(pipelines, asking)
    with ExitStack() as held:
        stores = _Stores(asking.store, held)
        needs = [bool(wiring.views) and (not lines.are_samples or each.needs_store)
                 for wiring, each in zip(wirings, recorded, strict=True)]  # fmt: skip
        plans = []
        for side, reads in zip(sides, needs, strict=True):
            store = await stores.of(side) if reads else MemoryStore()
            plans.append(_compiled(side, store))
            held.callback(plans[-1].inference.close)
        report = _report(sides, wirings, plans, asking)
        report.features = _told_features(stores, are_samples=lines.are_samples)
        if lines.weighs:
            report.warnings.append(WEIGHS)
        for plan, reads in zip(plans, needs, strict=True):
            if reads:
                await _check(plan, report)
                _warn_of_windows(plan.pipeline, report, are_samples=lines.are_samples)
        contributions = Contributions(sides, plans, wirings)
        tally = Tally(
            report, wirings, [_labels(*each) for each in zip(plans, wirings, strict=True)], contributions,
            id_field=id_field, outcomes=_outcomes(asking, id_field),
        )  # fmt: skip
        replay = Replay((plans[0], plans[1]), recorded, report.faulted, shares=shares)
        for page in pages_of(islice(lines, asking.limit)):
            async for answered in replay.pages(page):
                tally.add(answered)
            on_page(report.requests, lines.bytes_done, lines.bytes_total)
    tally.warn_of_outcomes(None if asking.outcomes is not None else asking.label)
    report.unexplained = contributions.unexplained
    report.unread, report.others = lines.unread, lines.others
    _require_requests(report, asking)
    return report


def _require_requests(report: WhatIf, asking: Asking) -> None:
    """Raise SetupError where nothing was replayed."""
    if report.requests:
        return
    left_out = [each for each in (report.unread, report.others, report.faulted) if each.count]
    told = "".join(f"; {where}: {why}" for each in left_out for where, why in each.examples[:1])
    count = sum(each.count for each in left_out)
    raise SetupError(f"of {count:,} lines none could be replayed{told}" if count else "it has no requests",
                     where=str(asking.requests),
                     next="give the pipeline's requests, JSON lines or Parquet, or a sample of serve")  # fmt: skip


class _Stores:
    """Opens the stores that are read: one that two pipelines share, once. asked: in place of the declared ones."""

    def __init__(self, asked: str | None, held: ExitStack) -> None:
        self._asked = asked
        self._held = held
        self._opened: dict[str, OnlineStore] = {}
        self.urls: list[str] = []

    async def of(self, side: Side) -> OnlineStore:
        """Return the store of a side, open. Raises StoreError."""
        url = self._asked or resolve_url(side.pipeline.store, side.pipeline.base_dir)
        if url.startswith("tier:"):  # which fills its hot store from the slower one, that has everything
            url = url.partition("|")[2]
        identity = store_identity(url)
        if identity not in self._opened:
            store = self._opened[identity] = open_store(url, _CLOCK)
            self._held.callback(store.close)
            await store.open()
            self.urls.append(without_password(url))
        return self._opened[identity]


def _wired(side: Side) -> Wiring:
    pipeline = side.pipeline
    if pipeline.decision is None:
        raise SetupError("it decides nothing, so that nothing can flip", where=f"pipeline {pipeline.name!r}",
                         next="compare scores alone: tailrace models compare A B")  # fmt: skip
    wiring = wire(pipeline)
    if wiring.problems:
        raise CompileError(side.name, wiring.problems)
    return wiring


def _compiled(side: Side, store: OnlineStore) -> Plan:
    """Return a side's plan, whose layers have as much time as they need, and explain nothing."""
    try:
        plan = compile_plan(replace(side.pipeline, budget=Budget(BUDGET)), store, clock=_CLOCK)
    except CompileError as error:
        where = f"{side.pipeline.name} with {side.name}"
        raise CompileError(where, [Problem(*problem) for problem in error.problems]) from None
    return replace(plan, inference=InferenceStep(plan.inference.stage, LayerLimit(plan.budget, INFERENCE, _CLOCK)))


def _report(sides: Sequence[Side], wirings: Sequence[Wiring], plans: Sequence[Plan], asking: Asking) -> WhatIf:
    """Return an empty report."""
    labels = tuple(dict.fromkeys(label for plan, wiring in zip(plans, wirings, strict=True)
                                 for label in _labels(plan, wiring)))  # fmt: skip
    many = wirings[0].expanded
    if many is not None and asking.amount is not None:
        raise SetupError(f"a request makes many rows ({many} is a list), and has one amount", where="--amount",
                         next="leave it out: rows are counted")  # fmt: skip
    edges = [_edges(side.pipeline) for side in sides]
    return WhatIf(
        names=(sides[0].name, sides[1].name),
        pipeline=sides[0].pipeline.name,
        labels=labels,
        edges=(edges[0], edges[1]),
        amount=None if many is not None else amount_field([side.pipeline for side in sides], asking.amount),
        decided=np.zeros((len(labels), len(labels)), np.int64),
    )


def _edges(pipeline: Pipeline) -> dict[str, float]:
    """Return where each band begins; nothing for other decisions."""
    decision = pipeline.decision
    return dict(zip(decision.labels, decision.edges, strict=True)) if isinstance(decision, Bands) else {}


def _labels(plan: Plan, wiring: Wiring) -> tuple[str, ...]:
    """Return a side's decisions: as declared, else the classes of its model."""
    if wiring.labels:
        return wiring.labels
    for stage in walk_stages(plan.inference.stage):
        if isinstance(stage, ModelStage | RemoteStage):
            return tuple(map(str, stage.signature.classes))
    raise SetupError("the decisions have no names", where=f"pipeline {plan.name!r}", next="name them: tr.labels(…)")


def _told_features(stores: _Stores, *, are_samples: bool) -> str:
    """Return where the values of features are from, in words."""
    now = f"read from {' and '.join(stores.urls)}, as it is now" if stores.urls else ""
    if are_samples:
        return "as they were served" + (f"; what samples lack is {now}" if now else "")
    return now or "of the request alone"


async def _check(plan: Plan, report: WhatIf) -> None:
    """Raise StoreError for a store that must not be served from; warn of views that it does not know."""
    checked = await check_views(plan, _CLOCK, refuse=True)
    if checked.failure:
        raise SetupError(f"the store failed: {checked.failure}", where=f"pipeline {plan.name!r}",
                         next="see that it runs, or name another: --store URL")  # fmt: skip
    for view in checked.unknown:
        warning = f"{view} has never been materialised into this store"
        if warning not in report.warnings:
            report.warnings.append(warning)


def _warn_of_windows(pipeline: Pipeline, report: WhatIf, *, are_samples: bool) -> None:
    """Warn that windows are of what the store has now: it forgets events, and knows of later ones."""
    views = ", ".join(view.__name__ for view in stream_views(pipeline))
    warning = (
        f"{views} of plain requests look back over the events that the store has now; samples have what was served"
    )
    if views and not are_samples and warning not in report.warnings:
        report.warnings.append(warning)


def _id_field(pipelines: Sequence[Pipeline], asking: Asking) -> str | None:
    """Return the field that tells requests apart; None where there is none."""
    fields = [set(pipeline.request.__struct_fields__) for pipeline in pipelines]
    known = fields[0] & fields[1]
    if asking.id_field is not None and asking.id_field not in known:
        raise SetupError(f"the request has no field {asking.id_field!r}", where="--id",
                         next=f"it has {', '.join(sorted(known))}")  # fmt: skip
    streams = [(pipeline, view.spec.stream) for pipeline in pipelines for view in stream_views(pipeline)]
    of_stream = next((each.id for pipeline, each in streams if is_event_of(pipeline, each) and each.id in known), None)
    found = asking.id_field or of_stream or (_ID if _ID in known else None)
    if found is None and asking.outcomes is not None:
        raise SetupError("which field of the request the outcomes go by is not clear", where="--outcomes",
                         next=f"give --id: one of {', '.join(sorted(known))}")  # fmt: skip
    return found


def _outcomes(asking: Asking, id_field: str | None) -> dict[str, str]:
    if asking.outcomes is None or id_field is None:
        return {}
    return read_outcomes(asking.outcomes, id_field, asking.label)
