"""A server renews what its release holds in a registry, and serves on where it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stand_in_supervisor import WORKER
from structlog.testing import capture_logs

from pipelines.model_graphs import linear
from tailrace.release.pinned import Pin, PinnedModel, Release, write_whole
from tailrace.release.registry.child import HELD_S, RegistryChoice
from tailrace.release.registry.garbage import delete
from tailrace.release.registry.records import to_seconds
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import Registry, open_registry
from tailrace.server.holds import renew_holds
from tailrace.server.logging import logger
from tailrace.server.options import ServeOptions
from tailrace.server.supervisor import Supervisor

WAIT_S = 20.0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a registry with one version."""
    linear(tmp_path, "one", {"amount": 0.001})
    registry = open_registry(str(tmp_path / "registry"), create=True)
    register(registry, tmp_path / "one", "fraud")
    return registry


@pytest.fixture
def pinned(tmp_path: Path, registry: Registry) -> Pin:
    """Return the pin of a release that has the version twice, and a directory."""
    pinned = Pin(root="/kept", folder=str(tmp_path), number=1, files=(), folders=())

    def model(directory: str, registered: str) -> PinnedModel:
        return PinnedModel(pipeline="pay", name="pay", version="", directory=directory, copy="/c", backend="",
                           backend_reason="", registered=registered)  # fmt: skip

    models = (model(registry.url, "fraud@1"), model("/models/pay", ""), model(registry.url, "fraud@1"))
    write_whole(pinned.release_file, Release(id="r", models=models, schemas={}))
    return pinned


def renew_until(pinned: Pin, done: Callable[[], Any], first_s: float = 0.01, period_s: float = 0.01) -> None:
    """Renew in short periods until something is true, and end it then."""

    async def run() -> None:
        task = asyncio.create_task(renew_holds(pinned, RegistryChoice(), logger(), first_s=first_s, period_s=period_s))
        async with asyncio.timeout(WAIT_S):
            while not done():
                await asyncio.wait([task], timeout=0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_hold_is_renewed(pinned: Pin, registry: Registry) -> None:
    """It is one, from each renewal on as long as from the start: so the version cannot be deleted.

    The first renewal does not wait for a period: what could not be held when the release was made is known at once.
    """
    renew_until(pinned, lambda: registry.holds("fraud", 1), period_s=WAIT_S * 10)
    ((hold_id, first),) = registry.holds("fraud", 1).items()
    assert first.why == "served from /kept"
    assert to_seconds(first.until, "") == pytest.approx(time.time() + HELD_S, abs=60)
    with pytest.raises(Exception, match="served from /kept"):
        delete(registry, "fraud", 1)
    assert hold_id.startswith("release-")


@pytest.mark.slow
def test_what_cannot_be_renewed_is_logged_and_tried_again(pinned: Pin, registry: Registry) -> None:
    """A registry that is away costs a line a period, and once it is back the version is held."""
    place = Path(registry.url)
    away = place.rename(place.with_name("away"))
    told: list[Any]

    def is_held_again() -> bool:
        if told and away.exists():
            away.rename(place)
        return place.exists() and bool(registry.holds("fraud", 1))

    with capture_logs() as told:
        renew_until(pinned, is_held_again)
    assert {key: told[0][key] for key in ("event", "version", "registry")} == {
        "event": "hold was not renewed", "version": "fraud@1", "registry": registry.url,
    }  # fmt: skip
    assert "there is no registry" in told[0]["error"]


def test_release_that_is_not_made_yet_holds_nothing(pinned: Pin, registry: Registry) -> None:
    """Before the first worker has made it there is nothing to be read, and nothing is said of that."""
    pinned.release_file.unlink()
    waits = iter(range(5))
    with capture_logs() as told:
        renew_until(pinned, lambda: next(waits) == 4)
    assert not told
    assert not registry.holds("fraud", 1)


@pytest.mark.slow
def test_supervisor_renews(pinned: Pin, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so while its workers serve, and a renewal under way is no reason to stay when it is to end."""
    monkeypatch.setattr("tailrace.server.supervisor.renew_holds", partial(renew_holds, first_s=0.01))
    options = ServeOptions(files=("serve",), port=0, admin_port=0, heartbeat_s=0.1)
    supervisor = Supervisor(options, pinned, worker_command=(sys.executable, str(WORKER)))

    async def run() -> int:
        serving = asyncio.create_task(supervisor.serve())
        async with asyncio.timeout(WAIT_S):
            while not registry.holds("fraud", 1):
                await asyncio.wait([serving], timeout=0.01)
                assert not serving.done()
            os.kill(os.getpid(), signal.SIGTERM)
            return await serving

    assert asyncio.run(run()) == 0
