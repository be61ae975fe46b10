"""The refresher: one process that materialises batch views again as often as they say, as `tailrace materialize` does.

Started by the supervisor with `--refresh`, as `python -m tailrace.refresher FD`, with FD its control channel. It takes
little: it is the last that the kernel gives a core to, and rests after each page of rows three times as long as the
page took. When a run of a view last reached its end is in the store's catalogue: so a restart does not begin anew, and
of several servers on one store only the first one refreshes a view that is due.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import random
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import LeaseError, TailraceError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.catalogue import read_record, schema_name
from tailrace.features.stores.opening import open_writer
from tailrace.monitor.layout import refresher_layout
from tailrace.monitor.recorder import RefreshRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.materialize import materialize
from tailrace.offline.options import MaterializeOptions
from tailrace.offline.pipeline_views import batch_views, key_types
from tailrace.offline.source_keys import key_type_of
from tailrace.pipeline import Pipeline
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.served import load_all, store_url

PAGE_ROWS: Final = 2_000
REST_SHARE: Final = 3.0
"""How much longer than a page took the refresher rests after it."""
RETRY_NS: Final = 60 * NS_PER_S
"""How long a view whose refresh failed waits at most for the next try."""
LOOK_S: Final = 1.0
NICE: Final = 19
SLICE_NS: Final = 100_000_000
"""The longest that the kernel takes: a process of a shorter slice that wakes has the core at once."""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, by machine; Python and older C libraries have no function of it."""


@dataclass(slots=True)
class Scheduled:
    """One view of one pipeline. due_ns: when it is to be refreshed, monotonic: a clock that is set moves it not."""

    pipeline: Pipeline
    view: type[BatchFeatureView]
    store: str
    due_ns: int = 0

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.__name__


class Refresher:
    """Refreshes views, one at a time, until it is to drain. wall_ns: since the epoch. now_ns: monotonic."""

    def __init__(
        self,
        scheduled: list[Scheduled],
        recorder: RefreshRecorder,
        log: Any,
        wall_ns: Callable[[], int] = time.time_ns,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.scheduled = scheduled
        self._recorder = recorder
        self._log = log
        self._wall_ns = wall_ns
        self._now_ns = now_ns
        self.is_stopping = False
        for each in scheduled:
            each.due_ns = self._now_ns() + self._delay_ns(each)

    def refresh_due(self) -> None:
        """Refresh the views that are due; one that fails is tried again later, and keeps no other from its turn."""
        for each in sorted(self.scheduled, key=lambda scheduled: scheduled.due_ns):
            if self.is_stopping or each.due_ns > self._now_ns():
                return
            self._refresh(each)

    def _refresh(self, each: Scheduled) -> None:
        spec, pipeline = each.view.spec, each.pipeline
        if delay_ns := self._delay_ns(each):  # another server's refresher, or a command, has been here
            each.due_ns = self._now_ns() + delay_ns
            return
        options = MaterializeOptions(batch_rows=PAGE_ROWS, limits=DatabaseLimits(threads=1))
        try:
            with closing(open_writer(each.store)) as writer:
                report = materialize(
                    spec, pipeline.base_dir, writer, pipeline=pipeline.name, options=options, clock=self._wall_ns,
                    on_progress=Rest(lambda: self.is_stopping),
                    key_type=key_type_of(key_types(pipeline), spec.entity),
                )  # fmt: skip
        except StoppedError:
            return
        except Exception as error:  # of a source that a user's query reads, say: the other views go on
            each.due_ns = self._now_ns() + min(spec.refresh_ns, RETRY_NS)
            self._recorder.count(pipeline.name, each.name, "held" if isinstance(error, LeaseError) else "failed")
            self._log.warning("view is not refreshed", pipeline=pipeline.name, view=each.name, cause=str(error))
            return
        each.due_ns = self._now_ns() + spec.refresh_ns + _jitter_ns(each.view)
        self._recorder.count(pipeline.name, each.name, "done", self._wall_ns() // NS_PER_S)
        self._log.info("view refreshed", pipeline=pipeline.name, view=each.name, written=report.written,
                       unchanged=report.unchanged, bad=report.bad, seconds=round(report.seconds, 1))  # fmt: skip

    def _delay_ns(self, each: Scheduled) -> int:
        """Return after what time a view is due: by when a run last ended with its schema, 0 where that is not known.

        What ended later than now was told by a clock that was ahead, and is not believed.
        """
        spec = each.view.spec
        try:
            with closing(open_writer(each.store, create=False)) as writer:
                record = read_record(writer.get, spec.name)
        except TailraceError:
            return 0
        schema = None if record is None else record.schemas.get(schema_name(spec.codec().schema_id))
        if schema is None or not schema.is_whole or not schema.ended_ns:
            return 0
        age_ns = self._wall_ns() - schema.ended_ns
        if age_ns < 0:
            return 0
        self._recorder.count(each.pipeline.name, each.name, None, schema.ended_ns // NS_PER_S)
        left_ns = spec.refresh_ns - age_ns
        return left_ns + _jitter_ns(each.view) if left_ns > 0 else 0


class StoppedError(Exception):
    """The refresher is to stop: the run ends where it is, and the next one resumes it."""


class Rest:
    """Called after each page of rows: rests in proportion to what the page took, and ends the run when it must."""

    def __init__(
        self,
        is_stopping: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._is_stopping = is_stopping
        self._now_s = now_s
        self._sleep = sleep
        self._since_s: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """Rest; not before the first page: a rest behind the sorting of the source would help nobody."""
        now_s = self._now_s()
        end_s = now_s if self._since_s is None else now_s + REST_SHARE * (now_s - self._since_s)
        while (left_s := end_s - self._now_s()) > 0 and not self._is_stopping():
            self._sleep(min(left_s, 0.2))
        if self._is_stopping() and done < total:
            raise StoppedError
        self._since_s = self._now_s()


def _jitter_ns(view: type[BatchFeatureView]) -> int:
    """Return some of the view's jitter, at random: so that views of one interval do not all come at once."""
    return int(random.random() * view.refresh.jitter_ns)


def schedule(pipelines: list[Pipeline], override: str | None) -> list[Scheduled]:
    """Return the batch views of some pipelines; one that two share in one store is in it once."""
    found: dict[tuple[str, str], Scheduled] = {}
    for pipeline in pipelines:
        for view in batch_views(pipeline):
            store = store_url(pipeline, override)
            found.setdefault((store, view.__name__), Scheduled(pipeline, view, store))
    return list(found.values())


async def _work(process: CompanionProcess) -> int:
    """Refresh until the supervisor says to stop, or is gone; return the exit code."""
    task = process.task
    try:
        scheduled = schedule(load_all(task.pin), task.options.store)
        names = [(each.pipeline.name, each.name) for each in scheduled]
        block = MetricBlock.create(refresher_layout(names), task.metrics_fd)
        refresher = Refresher(scheduled, RefreshRecorder(block), process.log)
    except Exception as error:  # of what a user's file does: the supervisor is to know of it
        return process.fail("start", error)
    process.say_ready()
    beats = asyncio.create_task(process.beat())
    obeying = asyncio.create_task(process.obey())
    with ThreadPoolExecutor(1) as thread:
        while not obeying.done():
            working = asyncio.get_running_loop().run_in_executor(thread, refresher.refresh_due)
            await asyncio.wait({working, obeying}, return_when=asyncio.FIRST_COMPLETED)
            refresher.is_stopping = obeying.done()
            await working
            await asyncio.wait({obeying}, timeout=LOOK_S)
    process.say_draining()
    beats.cancel()
    return 0


def give_way() -> None:
    """Let all others have a core first. What the kernel does not know is left out.

    Niceness counts within a session only where the kernel groups processes by sessions (autogroup), and every child of
    the supervisor has its own. So the refresher asks for long slices too: who wakes beside it, such as a worker that a
    request comes to, takes the core from it without waiting for the slice to end (Linux 6.12).
    """
    os.nice(NICE)
    if (number := SCHED_SETATTR.get(platform.machine())) is not None:
        asked = struct.pack("=IIQiIQQQ", 48, os.SCHED_BATCH, 0, NICE, 0, SLICE_NS, 0, 0)  # struct sched_attr
        ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(asked, len(asked)), 0)


def main(arguments: list[str]) -> int:
    """Run a refresher on the control channel whose descriptor is the last argument."""
    give_way()
    return run_companion("refresher", arguments, _work)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
