"""The log of what degrades a pipeline's answers: a line when it begins, and one when it is over."""

from __future__ import annotations

from typing import Any, Final

from tailrace.monitor.recorder import BatchRecorder
from tailrace.plan import Plan

QUIET_S: Final = 10


class FaultLog:
    """Logs when a pipeline begins to answer degraded and when it has not for `QUIET_S`; never once a call."""

    def __init__(self, plan: Plan, recorder: BatchRecorder, log: Any) -> None:
        self._retrieval = plan.features.retrieval
        self._recorder = recorder
        self._log = log.bind(pipeline=plan.name)
        self._rows = recorder.degraded_rows()  # a successor goes on with the counters of the worker before it
        self._quiet_s: dict[str, int] = {}
        if self._retrieval.failure is not None:
            self._log.warning("store does not answer", error=str(self._retrieval.failure))

    def look(self) -> None:
        """Look at the counters, once a second."""
        before, self._rows = self._rows, self._recorder.degraded_rows()
        for reason, rows in self._rows.items():
            if rows > before[reason]:
                if reason not in self._quiet_s:
                    error = self._retrieval.failure if reason.startswith("store_") else None
                    self._log.warning("answers degraded", reason=reason, error=str(error or "") or None)
                self._quiet_s[reason] = 0
            elif reason in self._quiet_s:
                self._quiet_s[reason] += 1
                if self._quiet_s[reason] >= QUIET_S:
                    del self._quiet_s[reason]
                    self._log.info("answers no longer degraded", reason=reason)
