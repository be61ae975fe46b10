"""The log of what degrades a pipeline's answers: a line when it begins, and one when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tailrace.inference.model_stage import ModelStage
from tailrace.inference.remote.client import RemoteClient
from tailrace.inference.remote.stage import RemoteStage
from tailrace.inference.scorer import Scorer
from tailrace.inference.stage import LeafStage, leaf_stages
from tailrace.monitor.recorder import BatchRecorder
from tailrace.plan import Plan

QUIET_S: Final = 10
TOLD_MAX: Final = 5
"""Models whose failures one line tells."""


class FaultLog:
    """Logs when a pipeline begins to answer degraded and when it has not for `QUIET_S`; never once a call."""

    def __init__(self, plan: Plan, recorder: BatchRecorder, log: Any) -> None:
        self._retrieval = plan.features.retrieval
        models = leaf_stages(plan.inference.stage)
        self._scoring = list(_scoring(models))
        self._failures = self._counts = [_count(each) for _, each in self._scoring]
        self._recorder = recorder
        self._log = log.bind(pipeline=plan.name)
        self._rows = recorder.degraded_rows()  # a successor goes on with the counters of the worker before it
        self._quiet_s: dict[str, int] = {}
        if self._retrieval.failure is not None:
            self._log.warning("store does not answer", error=str(self._retrieval.failure))
        for model in models:
            if model.notice:
                self._log.warning("remote model was not checked", model=model.name, error=model.notice)

    def look(self) -> None:
        """Look at the counters, once a second."""
        before, self._rows = self._rows, self._recorder.degraded_rows()
        self._counts, self._failures = self._failures, [_count(each) for _, each in self._scoring]
        for reason, rows in self._rows.items():
            if rows > before[reason]:
                if reason not in self._quiet_s:
                    self._log.warning("answers degraded", reason=reason, error=self._error(reason))
                self._quiet_s[reason] = 0
            elif reason in self._quiet_s:
                self._quiet_s[reason] += 1
                if self._quiet_s[reason] >= QUIET_S:
                    del self._quiet_s[reason]
                    self._log.info("answers no longer degraded", reason=reason)

    def _error(self, reason: str) -> str | None:
        """Return why: the last failure of the store, or of each model that has failed since the look before."""
        if reason.startswith("store_"):
            return str(self._retrieval.failure or "") or None
        if reason.startswith("model_"):
            is_error = reason == "model_error"  # else a model here was late, of which it has nothing to say
            told = [
                f"{name}: {each.failure}"
                for (name, each), before, now in zip(self._scoring, self._counts, self._failures, strict=True)
                if now > before and (is_error or isinstance(each, RemoteClient))
            ]
            return "; ".join(told[:TOLD_MAX]) or None
        return None


def _scoring(models: Sequence[LeafStage]) -> Iterator[tuple[str, Scorer | RemoteClient]]:
    """Give what scores for each model, by the model's name: a server, or a scorer and those that it falls back to."""
    for model in models:
        if isinstance(model, RemoteStage):
            yield model.name, model.client
        elif isinstance(model, ModelStage):
            scorer: Any = model.scorer
            while isinstance(scorer, Scorer):
                yield model.name, scorer
                scorer = scorer.fallback


def _count(scoring: Scorer | RemoteClient) -> int:
    return scoring.failures if isinstance(scoring, Scorer) else scoring.failures.total()
