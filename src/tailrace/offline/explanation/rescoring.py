"""A logged request through the layers of its release once more: with the features that were served, or the store's.

request, logged features -> layers 1 to 5, explained -> score, decision, contributions
request -> layers 1 to 5 on the store as it is now   -> score, decision, features that have changed
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from tailrace.batch import Batch
from tailrace.codecs.json import JsonCodec
from tailrace.compile.binding import reader_of
from tailrace.compile.compiler import compile_plan
from tailrace.compile.explaining import explained_models
from tailrace.compile.materialised import check_views
from tailrace.compile.resolve import wire
from tailrace.compile.samples import Samples
from tailrace.compile.wiring import Origin, Wiring
from tailrace.deadline import INFERENCE, Budget, LayerLimit, MonotonicClock
from tailrace.engine import answer
from tailrace.errors import ServingError, TailraceError
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, resolve_url
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.stores.redis_address import without_password
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.explaining.step import ExplainingStep
from tailrace.monitor.redacting import redacted_fields
from tailrace.monitor.samples import StoredSample
from tailrace.offline.explanation.answers import is_same
from tailrace.offline.explanation.document import Again, Answered, Changed, Feature, Rescored, Row
from tailrace.offline.explanation.releases import one_line
from tailrace.offline.whatif.recorded import RecordedFeatures
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan
from tailrace.request.rows import ARRAY_MAX

BUDGET: Final = "60s"
"""Nobody waits for it as a caller does; what came too late in serving is told by the log."""
FEATURES_MAX: Final = 100_000
_CLOCK: Final = MonotonicClock()


class UnableError(Exception):
    """Why a request cannot be scored again."""


class Contributed(NamedTuple):
    """What each feature adds to the score of each row, and why that is not known; "" where it is."""

    adds: list[Mapping[str, float]]
    unexplained: list[str]


class Rescoring:
    """Scores requests of one pipeline of a release. Its methods raise UnableError.

    backends: of the release. store: in place of the declared one.
    """

    def __init__(self, pipeline: Pipeline, backends: Mapping[Path, BackendChoice], store: str | None = None) -> None:
        self._pipeline = replace(pipeline, budget=Budget(BUDGET), record_requests=False)
        self._backends = backends
        url = store or resolve_url(pipeline.store, pipeline.base_dir)
        self._url = url.partition("|")[2] if url.startswith("tier:") else url  # whose hot store would be filled
        self.wiring: Wiring = wire(pipeline)
        self._labels: tuple[str, ...] = self.wiring.labels
        self._secret = redacted_fields(pipeline.request)

    @property
    def store(self) -> str:
        """What is shown of the store; "" where the pipeline reads none."""
        return without_password(self._url) if self._pipeline.views else ""

    def is_redacted(self, name: str) -> bool:
        """Return whether the log has no values of a feature."""
        found = self.wiring.features.get(name)
        return found is not None and found.origin is Origin.REQUEST and found.name in self._secret

    def of_logged(self, answered: Answered) -> tuple[Rescored, Contributed]:
        """Score a request from the features that were served, and explain it."""
        if not answered.rows:
            raise UnableError("the log has no rows of it: " + _why_no_rows(answered))
        recorded = RecordedFeatures(self.wiring, on_demand=True)
        if missing := sorted(recorded.needed - {each.name for each in answered.rows[0].features}):
            raise UnableError(f"the log does not have {', '.join(missing[:3])}")
        fault = ""
        try:
            batch = self._run(answered, recorded, reads=recorded.needs_store, explains=True)
        except UnableError as error:  # of the store, which a rule reads: contributions need none
            if not recorded.needs_store:
                raise
            fault = str(error)
            batch = self._run(answered, recorded, reads=False, explains=True)
        rescored = Rescored(fault=fault) if fault else self._compared(answered, batch)
        if recorded.needs_store and not fault and not rescored.is_equal:
            rescored.why = ["a rule, or a choice between models, reads what is not logged: from the store as it is now"]
        told, why = batch.explanations or [None] * batch.rows, batch.unexplained or [""] * batch.rows
        return rescored, Contributed([each or {} for each in told], list(why))

    def of_store(self, answered: Answered) -> Rescored:
        """Score a request from the features that the store has now."""
        if not answered.rows:
            raise UnableError("there is nothing to hold it against: " + _why_no_rows(answered))
        batch = self._run(answered, None, reads=bool(self._pipeline.views), explains=False)
        rescored = self._compared(answered, batch)
        columns = {name: _listed(reader_of(each).read(batch)) for name, each in self.wiring.features.items()}
        for then, now in zip(answered.rows, rescored.rows, strict=True):
            now.changed = [
                Changed(name=each.name, then=each.value, now=value)
                for each in then.features
                if not each.is_redacted and not is_same(each.value, value := columns[each.name][now.row])
            ]
        return rescored

    def _run(self, answered: Answered, recorded: RecordedFeatures | None, *, reads: bool, explains: bool) -> Batch:
        request = self._decoded(answered)
        try:
            return asyncio.run(self._answered(request, answered, recorded, reads=reads, explains=explains))
        except UnableError:
            raise
        except TailraceError as error:
            raise UnableError(one_line(error)) from None
        except Exception as error:  # of the user's own code
            raise UnableError(f"{type(error).__name__}: {error}") from None

    async def _answered(
        self, request: Any, answered: Answered, recorded: RecordedFeatures | None, *, reads: bool, explains: bool
    ) -> Batch:
        with ExitStack() as held:
            store: OnlineStore = open_store(self._url, _CLOCK) if reads else MemoryStore({})
            held.callback(store.close)
            await store.open()
            plan = compile_plan(self._pipeline, store, clock=_CLOCK, backends=self._backends)
            held.callback(plan.inference.close)
            self._labels = plan.postprocess.labels
            if reads and (failure := (await check_views(plan, _CLOCK, refuse=True)).failure):
                raise UnableError(f"the store failed: {failure}")  # what is served then are defaults
            if explains:
                plan = self._explaining(plan)
            now_ns = _CLOCK.now_ns()
            samples = Samples(plan)
            batch = samples.batch([request], now_ns, now_ns + plan.budget.total_ns)
            batch.suspends = plan.suspends(samples.rows(request))
            if recorded is None:
                await answer(plan, batch, _CLOCK.now_ns)
                return batch
            plan.request.run(batch)
            await plan.features.run(batch)
            recorded.apply(plan.features, batch, [self._sample(answered)])
            await plan.inference.run(batch)
            plan.postprocess.run(batch)
            plan.response.run(batch)
            return batch

    def _explaining(self, plan: Plan) -> Plan:
        """Return a plan that explains every row."""
        stage = plan.inference.stage
        models = explained_models(self._pipeline, self.wiring, plan.features.codecs, stage, _CLOCK)
        limit = LayerLimit(plan.budget, INFERENCE, _CLOCK)
        return replace(plan, inference=ExplainingStep(stage, limit, _CLOCK, models=models, top=FEATURES_MAX))

    def _decoded(self, answered: Answered) -> Any:
        if answered.request is None:
            raise UnableError("the log does not have the request")
        if answered.redacted:
            raise UnableError(f"{', '.join(answered.redacted[:3])} of the request is redacted")
        body = msgspec.json.encode(answered.request)
        request = JsonCodec(self._pipeline.request, array_max=ARRAY_MAX).decode(body)
        if isinstance(request, ServingError):
            raise UnableError(f"the request is none of this release: {request}")
        return request

    def _sample(self, answered: Answered) -> StoredSample:
        """Return what was served as samples have it: lists where a request makes many rows."""
        names = [each.name for each in answered.rows[0].features]
        columns = {name: [row.features[place].value for row in answered.rows] for place, name in enumerate(names)}
        noted = [{each.view: each.provenance for each in row.features if each.view} for row in answered.rows]
        provenance = {name: [each[name] for each in noted] for name in noted[0]}
        if self.wiring.expanded is None:
            columns = {name: values[0] for name, values in columns.items()}
            provenance = {name: values[0] for name, values in provenance.items()}  # type: ignore[misc]
        return StoredSample(
            time=answered.time or datetime.now(UTC), pipeline=answered.pipeline, release=answered.release,
            request=msgspec.Raw(b"{}"), features=columns, provenance=provenance, score=None,
        )  # fmt: skip

    def _compared(self, answered: Answered, batch: Batch) -> Rescored:
        """Return what was scored, beside what was."""
        if batch.rows != len(answered.rows):
            raise UnableError(f"it makes {batch.rows} rows now, the log has {len(answered.rows)}")
        labels = self._labels
        scores, rows = _listed(batch.scores), []
        for place, then in enumerate(answered.rows):
            decision = None
            if batch.decisions is not None and batch.decisions[place] >= 0:
                decision = labels[int(batch.decisions[place])] if labels else then.decision
            reasons = list(batch.reasons[place]) if batch.reasons else []
            failed = batch.failed is not None and bool(batch.failed[place])
            score = None if failed else scores[place]
            is_equal = is_same(score, then.score) and (decision, reasons) == (then.decision, then.reasons)
            rows.append(Again(row=place, score=score, decision=decision, reasons=reasons, is_equal=is_equal))
        return Rescored(rows=rows, is_equal=all(each.is_equal for each in rows))


def _why_no_rows(answered: Answered) -> str:
    if answered.coalesced:
        return "another request's computation answered it"
    return f"it was answered with {answered.error}" if answered.error else "it asks for none"


def _listed(column: Any) -> list[Any]:
    """Return a column as the log's lines have it: numbers as Python's, anything else as text."""
    values = np.asarray(column)
    if values.dtype.kind == "O":
        return [None if each is None else str(each) for each in values.tolist()]
    found: list[Any] = values.reshape(len(values), -1).tolist() if values.ndim > 1 else values.tolist()
    return found


def take_contributions(row: Row, adds: Mapping[str, float], unexplained: str) -> None:
    """Put what each feature adds beside it, the largest first; those that the log lacks too."""
    row.unexplained = unexplained
    if unexplained:
        return
    for each in row.features:
        each.adds = adds.get(each.name, 0.0)
    known = {each.name for each in row.features}
    row.features += [Feature(name=name, adds=value) for name, value in adds.items() if name not in known]
    row.features.sort(key=lambda each: -abs(each.adds or 0.0))
