"""Counting which way rows go, of pipelines whose stages have several: a split, a route, a cascade, a cold start."""

from __future__ import annotations

import numpy as np

from tailrace.batch import Batch
from tailrace.deadline import LAYERS
from tailrace.monitor.layout import Branches
from tailrace.monitor.shared import MetricBlock

_MARKS = len(LAYERS) + 1


class BranchRecorder:
    """Counts the rows of each branch of one pipeline; a recorder of its engine. branches: as in its layout."""

    def __init__(self, block: MetricBlock, pipeline: str, branches: Branches) -> None:
        self._cells = block.cells
        self._places = {
            stage: [block.find("tailrace_branch_rows_total", pipeline, stage, label).offset for label in labels]
            for stage, labels in branches
        }

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Count one delivered batch; one that broke off is answered again in parts."""
        if batch.branches is None or len(batch.marks_ns) != _MARKS:
            return
        for stage, found in batch.branches.items():
            places = self._places[stage]
            counts = np.bincount(found + 1, minlength=len(places) + 1).tolist()  # the first are rows not asked for
            for place, count in zip(places, counts[1:], strict=True):
                self._cells[place] += count
