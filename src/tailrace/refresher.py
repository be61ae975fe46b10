"""The refresher: one process that materialises batch views again as often as they say, as `tailrace materialize` does.

Started by the supervisor with `--refresh`, as `python -m tailrace.refresher FD`, with FD its control channel. It takes
little: it is the last that the kernel gives a core to, but for the moments in which it holds a store's lock, and rests
after each page of rows three times as long as the page took. When a run of a view last reached its end is in the
store's catalogue: so a restart does not begin anew, and of several servers on one store only the first one refreshes a
view that is due.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from tailrace.core_share import give_way
from tailrace.deadline import NS_PER_S
from tailrace.errors import LeaseError, TailraceError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.catalogue import read_record, schema_name
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.prompt_writer import PromptWriter
from tailrace.features.stores.protocol import StoreWriter
from tailrace.monitor.layout import refresher_layout
from tailrace.monitor.recorder import RefreshRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions
from tailrace.offline.outside_calls import StoppedError
from tailrace.offline.pipeline_views import batch_views, key_types
from tailrace.offline.source_keys import key_type_of
from tailrace.pipeline import Pipeline
from tailrace.server.companion_process import CompanionProcess, run_companion
from tailrace.server.declared import load_all, store_url

PAGE_ROWS: Final = 2_000
REST_SHARE: Final = 3.0
"""How much longer than a page took the refresher rests after it."""
RETRY_NS: Final = 60 * NS_PER_S
"""How long a view whose refresh failed waits at most for the next try."""
QUERY_S_MIN: Final = 60.0
QUERY_S_MAX: Final = 3_600.0
"""How long a query on another engine may take: its view's refresh interval, within these. The other views wait."""
LOOK_S: Final = 1.0
NICE: Final = 19


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


class FreshError(Exception):
    """A view has been refreshed by another since it was looked at. delay_ns: after what time it is due again."""

    def __init__(self, delay_ns: int) -> None:
        super().__init__(delay_ns)
        self.delay_ns = delay_ns


class Refresher:
    """Refreshes views, one at a time, until it is to drain. wall_ns: since the epoch. now_ns: monotonic.

    thread: an executor of one, begun before the process gave way, that holds LMDB's lock; None: the caller does.
    """

    def __init__(
        self,
        scheduled: list[Scheduled],
        recorder: RefreshRecorder,
        log: Any,
        wall_ns: Callable[[], int] = time.time_ns,
        now_ns: Callable[[], int] = time.monotonic_ns,
        thread: Executor | None = None,
    ) -> None:
        self.scheduled = scheduled
        self._recorder = recorder
        self._log = log
        self._wall_ns = wall_ns
        self._now_ns = now_ns
        self._thread = thread
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
        try:
            if delay_ns := self._delay_ns(each):  # another server's refresher, or a command, has been here
                raise FreshError(delay_ns)
            report = self._materialize(each)
        except StoppedError:
            return
        except FreshError as fresh:
            each.due_ns = self._now_ns() + fresh.delay_ns
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

    def _materialize(self, each: Scheduled) -> MaterializeReport:
        """Write a view. Raises FreshError where another has done so just before, and what `materialize` does."""
        spec, pipeline = each.view.spec, each.pipeline
        limits = DatabaseLimits(threads=1, query_s=query_limit_s(spec.refresh_ns))

        def look_again() -> None:  # two that looked at once get the lease in turn
            if delay_ns := self._delay_in(writer, each):
                raise FreshError(delay_ns)

        with closing(self._open_writer(each.store)) as writer:
            return materialize(
                spec, pipeline.base_dir, writer, pipeline=pipeline.name,
                options=MaterializeOptions(batch_rows=PAGE_ROWS, limits=limits), clock=self._wall_ns,
                on_progress=Rest(lambda: self.is_stopping), key_type=key_type_of(key_types(pipeline), spec.entity),
                on_lease=look_again, is_stopping=lambda: self.is_stopping,
            )  # fmt: skip

    def _open_writer(self, store: str) -> StoreWriter:
        """Return the writer of a store. LMDB's lock is held by a thread that gives way to nobody."""
        writer = open_writer(store)
        return PromptWriter(writer, self._thread) if self._thread and isinstance(writer, LmdbWriter) else writer

    def _delay_ns(self, each: Scheduled) -> int:
        """Return after what time a view is due, 0 where its store is not there or cannot be read."""
        try:
            with closing(open_writer(each.store, create=False)) as writer:
                return self._delay_in(writer, each)
        except TailraceError:
            return 0

    def _delay_in(self, writer: StoreWriter, each: Scheduled) -> int:
        """Return after what time a view is due: by when a run last ended with its schema, 0 where that is not known.

        What ended later than now was told by a clock that was ahead, and is not believed.
        """
        spec = each.view.spec
        record = read_record(writer.get, spec.name)
        schema = None if record is None else record.schemas.get(schema_name(spec.codec().schema_id))
        if schema is None or not schema.is_whole or not schema.ended_ns:
            return 0
        age_ns = self._wall_ns() - schema.ended_ns
        if age_ns < 0:
            return 0
        self._recorder.count(each.pipeline.name, each.name, None, schema.ended_ns // NS_PER_S)
        left_ns = spec.refresh_ns - age_ns
        return left_ns + _jitter_ns(each.view) if left_ns > 0 else 0


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


def query_limit_s(refresh_ns: int) -> float:
    """Return how long a query on another engine may take for a view that is refreshed so often."""
    return min(max(refresh_ns / NS_PER_S, QUERY_S_MIN), QUERY_S_MAX)


def schedule(pipelines: list[Pipeline], override: str | None) -> list[Scheduled]:
    """Return the batch views of some pipelines; one that two share in one store is in it once."""
    found: dict[tuple[str, str], Scheduled] = {}
    for pipeline in pipelines:
        for view in batch_views(pipeline):
            store = store_url(pipeline, override)
            found.setdefault((store, view.__name__), Scheduled(pipeline, view, store))
    return list(found.values())


async def _work(process: CompanionProcess, writing: Executor) -> int:
    """Refresh until the supervisor says to stop, or is gone; return the exit code. writing: see `Refresher`."""
    task = process.task
    try:
        scheduled = schedule(load_all(task.pin), task.options.store)
        names = [(each.pipeline.name, each.name) for each in scheduled]
        block = MetricBlock.create(refresher_layout(names), task.metrics_fd)
        refresher = Refresher(scheduled, RefreshRecorder(block), process.log, thread=writing)
    except Exception as error:  # of what a user's file does: the supervisor is to know of it
        return process.fail("start", error)
    process.say_ready()
    beats = asyncio.create_task(process.beat())
    obeying = asyncio.create_task(process.obey())
    stopping = asyncio.Event()
    refreshing = asyncio.create_task(_refresh_until(refresher, stopping))
    await asyncio.wait({refreshing, beats, obeying}, return_when=asyncio.FIRST_COMPLETED)
    refresher.is_stopping = True
    stopping.set()
    if obeying.done():
        process.say_draining()
    await asyncio.wait({refreshing}, timeout=task.options.drain_s)
    for each in (refreshing, beats, obeying):
        if each.done() and (fault := each.exception()) is not None:
            return process.fail("go on", fault)
    beats.cancel()
    if not refreshing.done():
        process.log.error("a run does not end; the next one resumes it", drain_s=task.options.drain_s)
    return 0 if refreshing.done() else 1


async def _refresh_until(refresher: Refresher, stopping: asyncio.Event) -> None:
    """Refresh what is due again and again, on a thread, until the refresher is to stop."""
    thread = ThreadPoolExecutor(1)
    while not stopping.is_set():
        await asyncio.get_running_loop().run_in_executor(thread, refresher.refresh_due)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_S)


def writing_thread() -> Executor:
    """Let all others have a core first. Return an executor whose one thread does not: begun before, it is as it was."""
    writing = ThreadPoolExecutor(1)
    writing.submit(int).result()  # only what it does first begins its thread
    give_way(NICE)
    return writing


def main(arguments: list[str]) -> int:
    """Run a refresher on the control channel whose descriptor is the last argument."""
    writing = writing_thread()
    return run_companion("refresher", arguments, lambda process: _work(process, writing))


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # its threads may wait for ever, for a store's lock or for another machine
