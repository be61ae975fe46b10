"""Writes the prediction log of all pipelines: on a thread of the observer, so that a slow disk holds up nothing."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.log.sweep import sweep_log
from tailrace.monitor.predictions import Predictions

LOOK_S: Final = 60.0
"""How often files are looked for that are too old, or that nobody has sealed."""
JUMP_S: Final = 60.0
DOUBT_S: Final = 3_600.0
"""How long a clock that has jumped makes no file old."""


class LogWriter:
    """Appends to a log. age_s_max, bytes_max: of what is kept.

    Used by one thread at a time. Its methods may raise OSError, and all may be called again then.
    """

    def __init__(
        self,
        root: Path,
        *,
        age_s_max: float,
        bytes_max: int,
        now_s: Callable[[], float] = time.time,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._age_s_max, self._bytes_max = age_s_max, bytes_max
        self._now_s, self._elapsed_s = now_s, elapsed_s
        self._files: dict[str, LogFiles] = {}
        self._looked_s = -math.inf
        self._offset_s = now_s() - elapsed_s()
        self._jumped_s = -math.inf
        self.logged: Counter[str] = Counter()
        """The requests that are written, by pipeline."""
        self.unfit = 0
        self.fault = ""

    def write(self, pending: deque[Predictions]) -> None:
        """Append predictions, and take each away that is written; `logged` says how many requests that were.

        What the disk does not take stays, in its order; the log of one pipeline keeps no other's waiting. What cannot
        be made lines of is taken away too: it would keep all others from the disk for ever.
        """
        refused: dict[str, Exception] = {}
        for _ in range(len(pending)):
            found = pending.popleft()
            if found.pipeline not in refused and (fault := self._write(found)) is not None:
                refused[found.pipeline] = fault
            if found.pipeline in refused:
                pending.append(found)
        _do_all(files.flush for files in self._files.values())
        for fault in refused.values():
            raise fault

    def _write(self, found: Predictions) -> Exception | None:
        """Append predictions of one pipeline; return why they are not written."""
        try:
            lines = log_table(found)
        except Exception as error:  # of values that Arrow has no one type for, say
            self.unfit += len(found.requests)
            self.fault = f"{found.pipeline}: {error}"
            return None
        try:
            self._of(found.pipeline).write([lines])
        except Exception as error:
            return error
        self.logged[found.pipeline] += len(found.requests)
        return None

    def take_unfit(self) -> tuple[int, str]:
        """Return how many requests no lines could be made of since this was last asked, and why."""
        unfit, self.unfit = self.unfit, 0
        return unfit, self.fault

    def look(self) -> None:
        """Seal what is due, and now and then what others have left; remove what is too old. Often."""
        steps: list[Callable[[], object]] = [files.seal_if_due for files in self._files.values()]
        if self._elapsed_s() >= self._looked_s + LOOK_S:
            self._looked_s = self._elapsed_s()
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders = [each for each in sorted(self._root.iterdir()) if each.is_dir()]
            steps += [self._sweep, *(partial(self._recover, folder.name) for folder in folders)]
        _do_all(steps)

    def _recover(self, pipeline: str) -> None:
        """Seal what others have left, one draft a second: that of a full disk may be many, and lines wait meanwhile."""
        if self._of(pipeline).recover(drafts_max=1):
            self._looked_s = -math.inf

    def _sweep(self) -> None:
        sweep_log(self._root, age_s_max=self._age_max(), bytes_max=self._bytes_max, now_s=self._now_s)

    def _age_max(self) -> float:
        """Return how old a file may be; of any age for an hour where the clock has jumped, perhaps to jump back."""
        offset_s = self._now_s() - self._elapsed_s()
        if abs(offset_s - self._offset_s) > JUMP_S:
            self._offset_s, self._jumped_s = offset_s, self._elapsed_s()
        return self._age_s_max if self._elapsed_s() >= self._jumped_s + DOUBT_S else math.inf

    def close(self) -> None:
        """Seal everything; what cannot be stays a draft, which the next writer seals."""
        for files in self._files.values():
            with suppress(OSError):
                files.seal()

    def _of(self, pipeline: str) -> LogFiles:
        if pipeline not in self._files:
            self._files[pipeline] = LogFiles(self._root / pipeline, self._now_s)
        return self._files[pipeline]


def _do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Do each step, also where one before it fails. Raises the first one's OSError then."""
    faults = []
    for step in steps:
        try:
            step()
        except OSError as error:
            faults.append(error)
    if faults:
        raise faults[0]
