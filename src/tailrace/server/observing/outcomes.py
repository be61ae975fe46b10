"""Outcomes in the observer: where labels have come, they are joined with the log, on a thread that takes its time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from tailrace.deadline import NS_PER_S
from tailrace.monitor.drift.outcomes import THRESHOLDS_MAX, LiveOutcomes
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.seldom import Seldom
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import Bands

SPAN_S: Final = 30 * 86_400.0
"""Of the log, by which predictions are judged."""
LOOK_S: Final = 10.0
"""How often the folders of labels are looked at."""
PAUSE_S: Final = 60.0
SHARE_MAX: Final = 0.05
"""Of the time, that may be spent on it: a log of ten million lines is read for seconds."""
AGAIN_S: Final = 3_600.0
"""After which it is done again without news: old lines have gone."""
LOG_S: Final = 300.0
NICE: Final = 15


class ObservedOutcomes:
    """Judges what was predicted by what came true. declared: the pipelines that are served. folder: the log's."""

    def __init__(self, declared: Sequence[Pipeline], folder: Path) -> None:
        self._pipelines = declared
        self._folder = folder
        self._found: dict[str, LiveOutcomes] = {}
        self._thread: threading.Thread | None = None
        self._next_s = 0.0
        self._joined_s = -AGAIN_S
        self._known: object = None
        self._seldom = Seldom(structlog.get_logger(), LOG_S)

    def take(self, predictions: Predictions) -> None:
        """Nothing: the log has them."""

    def write(self) -> None:
        """Have what is new joined, in a thread of its own: the log is not to wait for it."""
        now_s = time.monotonic()
        if now_s < self._next_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._next_s = now_s + LOOK_S
        if not self._has_labels():
            return
        self._thread = threading.Thread(target=self._work, name="outcomes", daemon=True)
        self._thread.start()

    def tell(self, observed: Observed) -> None:
        """Show what was found last."""
        observed.outcomes = self._found

    def close(self) -> None:
        """Nothing: what is being joined ends with the process."""

    def _has_labels(self) -> bool:
        """Return whether there is a folder with labels, or was."""
        with suppress(OSError):
            folders = [self._folder, *(each for each in self._folder.iterdir() if each.is_dir())]
            return bool(self._found) or any((each / "labels").is_dir() for each in folders)
        return False

    def _work(self) -> None:
        """Join the labels of all pipelines, if any is new."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        began_s, pause_s = time.monotonic(), PAUSE_S
        try:
            if not self._join(began_s):
                pause_s = LOOK_S
        except Exception as error:  # of a disk, or of a file of somebody else's
            self._seldom.warn("outcomes are not known", cause=repr(error))
        now_s = time.monotonic()
        self._next_s = now_s + max(pause_s, (now_s - began_s) / SHARE_MAX)

    def _join(self, began_s: float) -> bool:
        """Join labels with the log; return whether there was anything to join."""
        from tailrace.monitor.drift.labelled import join_outcomes, label_files, read_labels

        files = {each.name: label_files(self._folder, each.name) for each in self._pipelines}
        if files == self._known and began_s < self._joined_s + AGAIN_S:
            return False
        found = {}
        until_ns = time.time_ns()
        since_ns = until_ns - int(SPAN_S * NS_PER_S)
        for pipeline in self._pipelines:
            if not files[pipeline.name]:
                continue
            labels, unread = read_labels(files[pipeline.name])
            if unread:
                self._seldom.warn("labels cannot be read", files=[str(path) for path in unread[:5]], count=len(unread))
            found[pipeline.name] = join_outcomes(
                self._folder, pipeline.name, labels, thresholds_of(pipeline), since_ns=since_ns, until_ns=until_ns
            )
        self._found, self._known, self._joined_s = found, files, time.monotonic()
        return True


def thresholds_of(pipeline: Pipeline) -> tuple[float, ...]:
    """Return the scores at which a pipeline decides otherwise; of no bands none."""
    return pipeline.decision.edges[1 : THRESHOLDS_MAX + 1] if isinstance(pipeline.decision, Bands) else ()
