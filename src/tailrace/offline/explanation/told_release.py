"""What a release says of requests that it has answered: budgets, models, what is redacted, contributions, scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tailrace.batch import Degraded
from tailrace.deadline import NS_PER_US
from tailrace.errors import TailraceError
from tailrace.monitor.redacting import schema_that_redacts
from tailrace.offline.explanation.answers import is_same
from tailrace.offline.explanation.document import (
    Answered,
    Feature,
    LayerTime,
    ModelTold,
    Replay,
    Rescored,
)
from tailrace.offline.explanation.releases import OpenedRelease, find_release, one_line, pipeline_of
from tailrace.offline.explanation.rescoring import Rescoring, UnableError, take_contributions
from tailrace.pipeline import Pipeline
from tailrace.release.settle import chosen_backends
from tailrace.request.masking import Masking

CLOSE: Final = 1e-6
"""Relative: below it, two scores differ by how numbers are rounded, not by what was asked."""
_MODEL_FAILED: Final = {(Degraded.MODEL_ERROR.name or "").lower(), (Degraded.MODEL_TIMEOUT.name or "").lower()}


class ReleaseTold:
    """One release, if it is on one of these shelves. store: in place of the declared one."""

    def __init__(self, release_id: str, roots: Sequence[Path], store: str | None) -> None:
        self._opened = find_release(release_id, roots)
        self._store = store
        self._rescorings: dict[str, Rescoring] = {}

    def tell(self, answered: Answered, *, replay: bool) -> None:
        """Add to a request what its release knows of it, or why it tells nothing."""
        opened = self._opened
        pipeline = opened if isinstance(opened, str) else pipeline_of(opened, answered.pipeline)
        if isinstance(opened, str) or isinstance(pipeline, str):
            answered.release_note = str(pipeline)
            if replay:
                answered.replay = Replay(logged=Rescored(fault=str(pipeline)), now=Rescored(fault=str(pipeline)))
            return
        _tell_declared(answered, pipeline, opened)
        try:
            rescoring = self._rescoring(opened, pipeline)
        except TailraceError as error:
            answered.release_note = f"release {answered.release} cannot score: {one_line(error)}"
            return
        _mark_redacted(answered, rescoring)
        logged = _logged(answered, rescoring)
        if replay:
            logged.why = [*_reasons(answered, logged), *logged.why]
            answered.replay = Replay(logged=logged, now=_now(answered, rescoring), store=rescoring.store)

    def _rescoring(self, opened: OpenedRelease, pipeline: Pipeline) -> Rescoring:
        if pipeline.name not in self._rescorings:
            backends = chosen_backends(opened.release)
            self._rescorings[pipeline.name] = Rescoring(pipeline, backends, self._store)
        return self._rescorings[pipeline.name]


def _tell_declared(answered: Answered, pipeline: Pipeline, opened: OpenedRelease) -> None:
    """Add budgets, models, and which parts of the request are masked."""
    budget = pipeline.budget
    answered.budget_us = budget.total_ns // NS_PER_US
    answered.layers = [
        LayerTime(layer=each.layer, took_us=each.took_us, budget_us=budget_ns // NS_PER_US)
        for each, budget_ns in zip(answered.layers, budget.layers_ns, strict=True)
    ]
    answered.models = [
        ModelTold(name=each.name, version=each.version, backend=each.backend, registered=each.registered)
        for each in opened.release.models
        if each.pipeline == pipeline.name
    ]
    if (schema := schema_that_redacts(pipeline.request)) is not None:
        Masking(schema).mask(answered.request, schema, "$", answered.redacted)


def _mark_redacted(answered: Answered, rescoring: Rescoring) -> None:
    """Add the inputs of the model that the log must not have."""
    for row in answered.rows:
        known = {each.name for each in row.features}
        row.features += [
            Feature(name=name, is_redacted=True)
            for name in rescoring.wiring.features
            if name not in known and rescoring.is_redacted(name)
        ]


def _logged(answered: Answered, rescoring: Rescoring) -> Rescored:
    """Score a request from what was served, and add the contributions."""
    try:
        rescored, contributed = rescoring.of_logged(answered)
    except UnableError as error:
        for row in answered.rows:
            row.unexplained = str(error)
        return Rescored(fault=str(error))
    fell_back = [bool(_MODEL_FAILED & set(row.degraded)) for row in answered.rows]
    for place, row in enumerate(answered.rows):
        why = contributed.unexplained[place]
        if fell_back[place]:
            why = "a model failed or was late, and another score stands"
        take_contributions(row, contributed.adds[place], why)
    return rescored


def _now(answered: Answered, rescoring: Rescoring) -> Rescored:
    """Score a request from what the store has now."""
    try:
        rescored = rescoring.of_store(answered)
    except UnableError as error:
        return Rescored(fault=str(error))
    if not rescored.is_equal:
        changed = any(each.changed for each in rescored.rows)
        rescored.why = ["features have other values now" if changed else "the features are those that were served"]
    return rescored


def _reasons(answered: Answered, logged: Rescored) -> Iterator[str]:
    """Give what may account for a score that is another than the one that was served."""
    if logged.is_equal or logged.fault:
        return
    pairs = list(zip(answered.rows, logged.rows, strict=True))
    fell_back = any(_MODEL_FAILED & set(then.degraded) for then, _ in pairs)
    if fell_back:
        yield "a model failed or was late then, and its fallback answered; now it has the time that it needs"
    if answered.error:
        yield f"the request was answered with an error then: {answered.error}"
    others = [(then.score, now.score) for then, now in pairs if not is_same(then.score, now.score)]
    if others and all(_is_close(*pair) for pair in others):
        yield (
            "scores differ in their last digits: another build of a library, another processor, or the rows that were "
            "scored beside it"
        )
    elif others and not fell_back:
        yield "the model answers otherwise to what it was given then: it is remote, has a state, or goes by chance"


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    is_number = isinstance(one, float) and isinstance(other, float)
    return is_number and math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
