"""Writes the prediction log of all pipelines: on a thread of the observer, so that a slow disk holds up nothing."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.log.sweep import sweep_log
from tailrace.monitor.predictions import Predictions

SWEEP_S: Final = 60.0


class LogWriter:
    """Appends to a log. age_s_max, bytes_max: of what is kept.

    Used by one thread at a time. Its methods may raise OSError, and all may be called again then.
    """

    def __init__(self, root: Path, *, age_s_max: float, bytes_max: int, now_s: Callable[[], float] = time.time) -> None:
        self._root = root
        self._age_s_max, self._bytes_max = age_s_max, bytes_max
        self._now_s = now_s
        self._files: dict[str, LogFiles] = {}
        self._swept_s = 0.0
        self.logged: Counter[str] = Counter()
        """The requests that are written, by pipeline."""
        self.unfit = 0
        self.fault = ""

    def open(self) -> None:
        """Make the directory, and seal what a writer before has left."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in sorted(self._root.iterdir()):
            if folder.is_dir():
                self._of(folder.name).recover()

    def write(self, pending: deque[Predictions]) -> None:
        """Append predictions, and take each away that is written; `logged` says how many requests that were.

        What cannot be made lines of is taken away too: it would keep all others from the disk for ever.
        """
        while pending:
            found = pending[0]
            try:
                lines = log_table(found)
            except Exception as error:  # of values that Arrow has no one type for, say
                self.unfit += len(found.requests)
                self.fault = f"{found.pipeline}: {error}"
            else:
                self._of(found.pipeline).write([lines])
                self.logged[found.pipeline] += len(found.requests)
            pending.popleft()

    def take_unfit(self) -> tuple[int, str]:
        """Return how many requests no lines could be made of since this was last asked, and why."""
        unfit, self.unfit = self.unfit, 0
        return unfit, self.fault

    def look(self) -> None:
        """Seal what is due, and remove what is too old; often."""
        for files in self._files.values():
            files.seal_if_due()
        if (now_s := self._now_s()) >= self._swept_s + SWEEP_S:
            self._swept_s = now_s
            sweep_log(self._root, age_s_max=self._age_s_max, bytes_max=self._bytes_max, now_s=self._now_s)

    def close(self) -> None:
        """Seal everything; what cannot be stays a draft, which the next writer seals."""
        for files in self._files.values():
            with suppress(OSError):
                files.seal()

    def _of(self, pipeline: str) -> LogFiles:
        if pipeline not in self._files:
            self._files[pipeline] = LogFiles(self._root / pipeline, self._now_s)
        return self._files[pipeline]
