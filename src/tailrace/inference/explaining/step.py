"""Layer 3 of a pipeline whose scores are explained: the stage scores a batch, then rows that are asked about are told.

An explanation costs a hundred times what the score does. So it has what is left of the layer's time, and no more: what
does not fit, or comes too late, is left out, and the answer says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.deadline import Clock, LayerLimit, MonotonicClock
from tailrace.inference.assembly import Assembler
from tailrace.inference.composition.composed import Composed
from tailrace.inference.curve import CostCurve
from tailrace.inference.explaining.explainer import Trees
from tailrace.inference.inline import INLINE_NS_MAX
from tailrace.inference.learned import LearnedCosts
from tailrace.inference.predictor import Feeds
from tailrace.inference.stage import Stage
from tailrace.inference.step import InferenceStep
from tailrace.inference.thread import InferenceThread

IN_FLIGHT_MAX: Final = 4
"""Batches that may wait for their explanations while others, which nobody asks about, are answered."""
TRIED_EVERY: Final = 32
"""Batches without time for a row, of which one has a row explained all the same: what a row takes may have changed."""
NO_TIME: Final = "no time was left"
FALLBACK: Final = "a model failed or was late, and another score stands"
ENSEMBLE: Final = "the mean of an ensemble cannot be explained"

_MODEL_FAILED: Final = np.uint8(Degraded.MODEL_ERROR | Degraded.MODEL_TIMEOUT)


class ExplainedModel:
    """A model that can be explained.

    features: its inputs' names. row_ns: what a row takes, measured before traffic. learns: whether it learns yet what
    a row takes, from those that are asked about.
    """

    def __init__(
        self,
        assemblers: Sequence[Assembler],
        trees: Trees,
        features: Sequence[str],
        row_ns: int,
        clock: Clock | None = None,
    ) -> None:
        self._fills = [(assembler.name, assembler.fill) for assembler in assemblers]
        self._explain = trees.contributions
        self.features = tuple(features)
        self.learns = False
        self._costs = LearnedCosts(CostCurve((1,), (row_ns,), (row_ns,)))
        self._now_ns = (clock or MonotonicClock()).now_ns
        self._untried = 0

    @property
    def row_ns(self) -> int:
        """What a row takes, the median, as far as is known now."""
        return max(self._costs.curve.cost_ns(1), 1)

    def fits(self, left_ns: int, *, waits: bool) -> int:
        """Return how many rows there is time for; of batches that wait, and have time for none, now and then one."""
        rows = max(left_ns if waits else min(left_ns, INLINE_NS_MAX), 0) // self.row_ns
        if rows or not self.learns or not waits or left_ns <= 0:
            return rows
        self._untried += 1
        return int(not self._untried % TRIED_EVERY)

    def feeds(self, batch: Batch, rows: NDArray[np.intp]) -> Feeds:
        """Return the model's inputs of some rows."""
        return {name: fill(batch)[rows] for name, fill in self._fills}

    def explain(self, feeds: Feeds, limits: Sequence[int]) -> list[dict[str, float]]:
        """Return the largest contributions of each row, the largest first, as many as its limit says.

        Of several classes: to the likeliest one.
        """
        began_ns = self._now_ns()
        told = self._told(self._explain(feeds), limits)
        if self.learns:
            self._costs.learn(len(told), self._now_ns() - began_ns)
        return told

    def _told(self, found: NDArray[np.float64], limits: Sequence[int]) -> list[dict[str, float]]:
        if found.ndim > 2:
            likeliest = found.sum(axis=2).argmax(axis=1)
            found = found[np.arange(len(found)), likeliest]
        own = found[:, :-1]
        order = np.argsort(-np.abs(own), axis=1, kind="stable")
        return [
            {self.features[place]: float(row[place]) for place in places[:limit] if row[place]}
            for row, places, limit in zip(own, order.tolist(), limits, strict=True)
        ]


class ExplainingStep(InferenceStep):
    """Scores a batch and explains the rows that are asked about.

    models: what explains each model of the stage, by its name, or why nothing does. top: how many contributions, or the
    field of the request that says so, where none is 0. answered: finds the rows that are answered with; None for all.
    """

    def __init__(
        self,
        stage: Stage,
        limit: LayerLimit,
        clock: Clock,
        *,
        models: Mapping[str, ExplainedModel | str],
        top: int | str,
        answered: Callable[[Batch], NDArray[np.intp]] | None = None,
    ) -> None:
        super().__init__(stage, limit)
        self._models = models
        self._top = top if isinstance(top, int) else 0
        self._read = attrgetter(top) if isinstance(top, str) else None
        self._explained = [each for each in models.values() if isinstance(each, ExplainedModel)]
        self._answered = answered
        self._clock = clock
        self._thread: InferenceThread | None = None

    @property
    def in_flight_max(self) -> int:
        """How many batches it takes at once, where some wait for explanations."""
        return self.stage.in_flight_max + (IN_FLIGHT_MAX if self._explained else 0)

    @property
    def unexplained(self) -> dict[str, str]:
        """The models that cannot be explained, by name, and why."""
        return {name: model for name, model in self._models.items() if isinstance(model, str)}

    def suspends(self, rows: int) -> bool:
        """Return whether a batch of so many rows waits: also where it would for explanations of all."""
        return any(rows * each.row_ns > INLINE_NS_MAX for each in self._explained) or super().suspends(rows)

    def begin_learning(self) -> None:
        """Learn from now on what calls, and explanations, cost: real ones come."""
        super().begin_learning()
        for each in self._explained:
            each.learns = True

    async def run(self, batch: Batch) -> None:
        """Fill what layer 3 does, and `explanations`, where a row is asked about."""
        limit_ns = self._limit.at_ns(batch.deadline_ns)
        await super().run(batch)
        limits = self._limits(batch)
        rows = (limits > 0).nonzero()[0]
        if not len(rows):
            return
        batch.explanations, batch.unexplained = [None] * batch.rows, [""] * batch.rows
        failed = None if batch.degraded is None else (batch.degraded & _MODEL_FAILED) != 0
        if failed is not None and failed.any():
            _say(batch, rows[failed[rows]], FALLBACK)
            rows = rows[~failed[rows]]
        for name, own in _scored_by(self.stage, batch, rows):
            model = ENSEMBLE if name is None else self._models[name]
            if isinstance(model, str):
                _say(batch, own, f"this model cannot be explained: {model}")
            else:
                await self._explain(batch, model, own, limits, limit_ns)

    def close(self) -> None:
        """Let go of the threads."""
        super().close()
        if self._thread is not None:
            self._thread.close()

    def _limits(self, batch: Batch) -> NDArray[np.intp]:
        """Return how many contributions each row is asked for."""
        if self._read is None:
            limits = np.full(batch.rows, self._top)
        else:
            limits = np.fromiter(map(self._read, batch.requests), np.intp, len(batch.requests))
            limits = limits if batch.row_request is None else limits[batch.row_request]
        if self._answered is None or not limits.any():
            return limits
        kept = np.zeros_like(limits)
        rows = self._answered(batch)
        kept[rows] = limits[rows]
        return kept

    async def _explain(
        self, batch: Batch, model: ExplainedModel, rows: NDArray[np.intp], limits: NDArray[np.intp], limit_ns: int
    ) -> None:
        """Explain as many rows of one model as there is time for; on the loop, few."""
        fits = model.fits(limit_ns - self._clock.now_ns(), waits=batch.suspends)
        _say(batch, rows[fits:], NO_TIME)
        rows = rows[:fits]
        if not len(rows):
            return
        feeds, own = model.feeds(batch, rows), limits[rows].tolist()
        try:
            if batch.suspends and len(rows) * model.row_ns > INLINE_NS_MAX // 4:
                self._thread = self._thread or InferenceThread(clock=self._clock)
                found = await self._thread.run(model.explain, feeds, own, deadline_ns=limit_ns)
            else:
                found = model.explain(feeds, own)
        except TimeoutError:
            _say(batch, rows, NO_TIME)
            return
        except Exception as error:  # of a library: an explanation is never worth an answer
            _say(batch, rows, f"{type(error).__name__} while explaining")
            return
        assert batch.explanations is not None
        for row, each in zip(rows.tolist(), found, strict=True):
            batch.explanations[row] = each


def _say(batch: Batch, rows: NDArray[np.intp], why: str) -> None:
    """Note why some rows are not explained."""
    assert batch.unexplained is not None
    for row in rows.tolist():
        batch.unexplained[row] = why


def _scored_by(stage: Stage, batch: Batch, rows: NDArray[np.intp]) -> Iterator[tuple[str | None, NDArray[np.intp]]]:
    """Give the models whose scores stand, by name, and their rows among these; None for those of a mean."""
    if not len(rows):
        return
    if not isinstance(stage, Composed):
        yield stage.name, rows
    elif batch.branches is None or stage.name not in batch.branches:
        yield None, rows
    else:
        branches = batch.branches[stage.name][rows]
        for index, member in enumerate(stage.members):
            yield from _scored_by(member, batch, rows[branches == index])
