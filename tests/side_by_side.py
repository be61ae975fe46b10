"""The order of `pytest -n 2`: files side by side, each on one core; then those of ALONE, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ALONE: Final[Sequence[str]] = (
    "tests/bench/test_refreshing.py",
    "tests/features/test_hops_on_stores.py",
    "tests/features/test_slow_store.py",
    "tests/features/test_store_faults.py",
    "tests/inference/backends/test_choice.py",
    "tests/inference/composition/test_*.py",
    "tests/inference/test_batching.py",
    "tests/inference/test_model_stage.py",
    "tests/inference/test_remote_client.py",
    "tests/inference/test_remote_stage.py",
    "tests/loadtest/test_bench_command.py",
    "tests/loadtest/test_load_runner.py",
    "tests/offline/test_outside_calls.py",
    "tests/offline/test_postgres.py",
    "tests/server/test_faults*.py",
    "tests/server/test_http_waits.py",
    "tests/server/test_overload.py",
    "tests/server/test_remote_model_served.py",
    "tests/server/test_supervisor.py",
    "tests/test_engine.py",
)
"""Patterns of the files that hold times or shares against what they do: nothing runs beside them."""

FIRST: Final[Sequence[str]] = (
    "tests/examples/test_fraud_prepare.py",
    "tests/test_docs.py",
)
"""Those that take longest, so that no core is left with one of them at the end."""


class SideBySide(LoadFileScheduling):
    """Hands files to the workers; those of ALONE to the last one, once all others have ended."""

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Note that a test has run. Where its worker is to end, the last one may wait for that."""
        super().mark_test_complete(node, item_index, duration)
        if node.shutting_down:
            for each in self.nodes:
                self._reschedule(each)

    def _reschedule(self, node: WorkerController) -> None:
        others = [each for each in self.nodes if each is not node]
        if node.shutting_down or not self.workqueue or self._next_beside():
            super()._reschedule(node)
        elif not all(each.shutting_down for each in others):
            node.shutdown()
        elif not any(self._pending_of(self.assigned_work[each]) for each in others):
            super()._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        beside = self._next_beside()
        if beside is not None:
            self.workqueue.move_to_end(beside, last=False)
        elif any(self._pending_of(work) for each, work in self.assigned_work.items() if each is not node):
            return
        super()._assign_work_unit(node)

    def _next_beside(self) -> str | None:
        """Return the next file that others may run beside, if any is left."""
        left = [file for file in self.workqueue if not matches(file, ALONE)]
        return next((file for file in left if matches(file, FIRST)), left[0] if left else None)


def matches(file: str, patterns: Sequence[str]) -> bool:
    """Say whether a file is one of those that patterns name."""
    return any(fnmatch(file, pattern) for pattern in patterns)
