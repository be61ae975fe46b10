"""The ingester's end, where no supervisor sees to it that the workers are gone: what they send meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.ingest.frames import encode_events, stream_route
from tailrace.ingest.intake import EventIntake
from tailrace.ingest.routes import Routes
from tailrace.server.ingester import Ingester

LIMIT_S = 20.0


def test_ingester_takes_no_events_while_it_notes_the_end_of_its_use(tmp_path: Path, pipelines_dir: Path) -> None:
    """Nothing is under way when it has counted to the end: the stores are closed next."""
    pipelines = load_pipelines(pipelines_dir / "activity.py")
    process: Any = None
    ingester = Ingester(process)
    is_noting, may_note = threading.Event(), threading.Event()
    own, worker = socket.socketpair()

    class LateRoutes(Routes):
        """Stores that are slow to note the end."""

        def end_use(self) -> None:
            """Note it once that is allowed."""
            is_noting.set()
            may_note.wait(LIMIT_S)
            super().end_use()

    async def scenario() -> None:
        counting = asyncio.create_task(intake.run())
        await ingester._take_link(own.detach())
        ending = asyncio.create_task(ingester._count_to_end())
        assert await asyncio.to_thread(is_noting.wait, LIMIT_S)
        worker.sendall(encode_events(1, stream_route("payments"), [msgspec.Raw(b"\x80")]))
        await asyncio.sleep(0.05)  # a link that is read would have brought it by now
        may_note.set()
        await asyncio.wait_for(ending, LIMIT_S)
        assert intake.is_idle
        counting.cancel()
        for link in list(ingester._links):
            link.close()
        intake.close()
        worker.settimeout(LIMIT_S)
        with pytest.raises(ConnectionResetError):  # it was not even read
            await asyncio.to_thread(worker.recv, 1)

    with worker, closing(LateRoutes(pipelines, lambda _: f"lmdb:{tmp_path / 'store'}", MonotonicClock())) as routes:
        ingester._routes = routes
        ingester._intake = intake = EventIntake(routes.routes)
        asyncio.run(scenario())
