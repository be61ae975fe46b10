"""The log of what degrades a pipeline's answers: a line when it begins, and one when it is over."""

from __future__ import annotations

from typing import Any, Final

from tailrace.inference.stage import leaf_stages
from tailrace.monitor.recorder import BatchRecorder
from tailrace.plan import Plan

QUIET_S: Final = 10


class FaultLog:
    """Logs when a pipeline begins to answer degraded and when it has not for `QUIET_S`; never once a call."""

    def __init__(self, plan: Plan, recorder: BatchRecorder, log: Any) -> None:
        self._retrieval = plan.features.retrieval
        self._models = leaf_stages(plan.inference.stage)
        self._recorder = recorder
        self._log = log.bind(pipeline=plan.name)
        self._rows = recorder.degraded_rows()  # a successor goes on with the counters of the worker before it
        self._quiet_s: dict[str, int] = {}
        if self._retrieval.failure is not None:
            self._log.warning("store does not answer", error=str(self._retrieval.failure))
        for model in self._models:
            if model.notice:
                self._log.warning("remote model was not checked", model=model.name, error=model.notice)

    def look(self) -> None:
        """Look at the counters, once a second."""
        before, self._rows = self._rows, self._recorder.degraded_rows()
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
        """Return the last failure of what a reason speaks of, where that is another server."""
        if reason.startswith("store_"):
            return str(self._retrieval.failure or "") or None
        if reason.startswith("model_"):
            return next((model.failure for model in self._models if model.failure), None)
        return None
